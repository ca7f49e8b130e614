"""Which experiments `reproduce` regenerates, and arms that two of them call by one name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vlm_ablate.errors import ConfigError, Problem, UnknownNameError, VlmAblateError

if TYPE_CHECKING:
    from pathlib import Path

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.config.loading import ResolvedArm
    from vlm_ablate.runs.spec import RunSpec
    from vlm_ablate.tracking.record_file import RecordFile


def load_set(papers: str, experiments: str | None, scale: str) -> list[LoadedExperiment]:
    """The experiments asked for, at a scale: of these papers those that regenerate something, or those named.

    An experiment regenerates something when it names a table of a paper or makes claims.

    Args:
        papers: first parts of names, separated by commas.
        experiments: names or patterns, separated by commas; None: all of the papers.

    Raises:
        ConfigError: all problems of all files.
        UnknownNameError: a paper or a name that no experiment has.
        VlmAblateError: nothing is named, or nothing is left.
    """
    from vlm_ablate.cli.console import listed
    from vlm_ablate.config.expand import experiment_files, load_experiment
    from vlm_ablate.config.shipped import experiment_name
    from vlm_ablate.papers import PAPERS

    folders = listed("--papers", papers, "names separated by commas")
    patterns = [] if experiments is None else listed("--experiments", experiments, "names separated by commas")
    files = {experiment_name(file): file for file in experiment_files()}
    _check_known(folders if not patterns else (), {*PAPERS, *(name.split("/")[0] for name in files)}, "paper")
    _check_known(patterns, files, "experiment")
    problems: list[Problem] = []
    loaded: list[LoadedExperiment] = []
    for name, file in files.items():
        if not (any(fnmatchcase(name, p) for p in patterns) if patterns else name.split("/")[0] in folders):
            continue
        try:
            each = load_experiment(file, scale=scale)
        except ConfigError as error:
            problems += error.problems
            continue
        if patterns or each.experiment.paper or each.experiment.table.claims:
            loaded.append(each)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if not loaded:
        raise VlmAblateError("no experiment here regenerates a table", hint="run it where the folder experiments/ is")
    return loaded


def recorded_in(
    folder: Path, loaded: Sequence[LoadedExperiment], tables: Mapping[str, Sequence[RunSpec]]
) -> dict[str, RecordFile]:
    """Name of an experiment -> its runs in a folder of results that are done, there or in another experiment's file.

    Args:
        tables: name -> the runs that are asked for.

    Raises:
        VlmAblateError: none is there, or a file cannot be read.
    """
    from vlm_ablate.cli.records import joined
    from vlm_ablate.runs.recorded import shared_records
    from vlm_ablate.tracking import schema
    from vlm_ablate.tracking.record_file import RecordFile, load_records

    scale = loaded[0].scale.name
    places = {str(f.parents[1].relative_to(folder)): f for f in sorted(folder.glob(f"*/*/{scale}/records.json"))}
    names = [each.experiment.name for each in loaded]
    read = {name: load_records(places[name]) for name in names if name in places}
    # One that was going on then tells nothing now.
    found = {name: replace(f, records=[r for r in f.records if r.status in schema.DONE]) for name, f in read.items()}
    for name in names:
        own = found.get(name, RecordFile([]))
        done = {record.id for record in own.records}
        missing = [spec for spec in tables[name] if spec.id not in done]
        if not missing:
            continue
        read |= {other: load_records(file) for other, file in places.items() if other not in read}
        shared = shared_records(missing, (file for other, file in read.items() if other != name))
        if shared.records:
            found[name] = joined(own, shared, name, scale)
    if not found:
        raise VlmAblateError(
            f"--records {folder}: there are no records of {names[0]}{' or the others' * (len(names) > 1)}",
            hint=f"a folder that `reproduce --out` or `table --out` wrote has {folder / names[0] / scale}/records.json",
        )
    return found


def _check_known(wanted: Sequence[str], known: Collection[str], kind: str) -> None:
    for word in wanted:
        if not any(fnmatchcase(name, word) for name in known):
            raise UnknownNameError(kind, word, sorted(known))


def unlike_arms(loaded: Sequence[LoadedExperiment]) -> list[tuple[str, str]]:
    """(subject, text) for arms that have one name in the folder of a paper, with the same label, and are not alike."""
    from vlm_ablate.cli.console import some_of
    from vlm_ablate.config.diff import arm_diff

    seen: dict[tuple[str, str, str], tuple[LoadedExperiment, ResolvedArm]] = {}
    notes = []
    for each in loaded:
        folder = each.experiment.name.partition("/")[0]
        for name, arm in each.arms.items():
            first, mine = seen.setdefault((folder, name, arm.label), (each, arm))
            changes = [c for c in arm_diff(mine.config, arm.config) if c.path.startswith(("model", "stages", "data"))]
            if changes:
                told = some_of([f"{c.path} {c.base} and {c.arm}" for c in changes], 3)
                where = f"{first.experiment.name} and {each.experiment.name}"
                notes.append(("One name, two settings", f"{name} of {where}: {told}."))
    return notes
