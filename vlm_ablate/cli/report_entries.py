"""What `report` shows: every experiment and scale of which a home or a folder of results has records."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_ablate.home import Home
    from vlm_ablate.reporting.site import Entry
    from vlm_ablate.runs.catalogue import Asked
    from vlm_ablate.tracking.record_file import RecordFile

Told = Callable[[str], object]


@dataclass
class _Found:
    """The records files of an experiment at a scale, and the ids of its runs that the home has."""

    files: list[RecordFile] = field(default_factory=list)
    here: set[str] = field(default_factory=set)


def gather(
    home: Home, results: Path, files: Sequence[Path], scale: str | None, told: Told
) -> tuple[list[Entry], list[Entry]]:
    """(what is recorded, experiments of which nothing is).

    Args:
        results: folder with `records.json` files at any depth; it need not be there.
        files: experiments besides those of `experiments/`.
        scale: only this; None: all.
    """
    from vlm_ablate.config.expand import EVALUATIONS
    from vlm_ablate.config.shipped import experiment_name
    from vlm_ablate.reporting.site import Entry
    from vlm_ablate.runs.catalogue import asked_here

    asked = asked_here(home)
    known = _known(files)
    brought = _known(sorted(EVALUATIONS.glob("*.yaml")), others=False)
    kept = sorted(results.rglob("records.json"))
    beside = _known(_files_beside_records(kept, results), others=False)
    found = {place: each for place, each in _recorded(asked, kept, told).items() if scale in (None, place[1])}
    order = {name: i for i, name in enumerate(known)}
    entries = []
    for (name, at), each in sorted(found.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0])):
        told(name)
        if file := known.get(name) or brought.get(name):
            entries.append(_entry(name, at, file, each, home, asked))
        elif file := beside.get(name):
            entries.append(_entry(name, at, file, each, home, asked, ran_only=True))
        else:
            entries.append(_without_file(name, at, each))
    option = _at(scale or "laptop")
    missing = [
        Entry(
            name, scale or "laptop", _title(file), commands=(f"vlm-ablate run {_word(experiment_name(file))}{option}",)
        )
        for name, file in known.items()
        if name not in {place[0] for place in found}
    ]
    return entries, missing


def _at(scale: str) -> str:
    """The option that names a scale; none for the one that commands take without it."""
    return f" --scale {_word(scale)}" if scale != "laptop" else ""


def _known(files: Sequence[Path], *, others: bool = True) -> dict[str, Path]:
    """Name -> experiment file, those given over the others, which are below `experiments/`."""
    from vlm_ablate.config.compose import load_document
    from vlm_ablate.config.expand import experiment_files, find_experiment
    from vlm_ablate.errors import ConfigError

    known: dict[str, Path] = {}
    for file in (*(experiment_files() if others else ()), *map(find_experiment, files)):
        try:
            name = load_document(file).data.get("name")
        except ConfigError:
            continue
        if isinstance(name, str):
            known[name] = file
    return known


def _files_beside_records(kept: Sequence[Path], results: Path) -> list[Path]:
    """YAML files in the folders of records and one above: where a sweep keeps the experiment of its winner."""
    folders = {folder for file in kept for folder in file.parents[:2] if folder != results}
    return sorted(file for folder in folders for file in folder.glob("*.yaml"))


def _title(file: Path) -> str:
    from vlm_ablate.config.compose import load_document

    return str(load_document(file).data.get("title", ""))


def _recorded(asked: Sequence[Asked], kept: Sequence[Path], told: Told) -> dict[tuple[str, str], _Found]:
    """(experiment, scale) -> what there is. A records file that cannot be read is a warning."""
    from vlm_ablate.cli.console import warn
    from vlm_ablate.errors import TrackingError
    from vlm_ablate.tracking.record_file import load_records

    found: dict[tuple[str, str], _Found] = {}
    for each in asked:
        found.setdefault((each.experiment, each.scale), _Found()).here.add(each.id)
    for file in kept:
        told(str(file))
        try:
            read = load_records(file)
        except TrackingError as error:
            warn([error.message])
            continue
        for place in dict.fromkeys((record.experiment, record.scale) for record in read.records):
            found.setdefault(place, _Found()).files.append(read)
    return found


def _without_file(name: str, scale: str, found: _Found) -> Entry:
    from vlm_ablate.reporting.site import Entry

    records = (r for f in found.files for r in f.records if (r.experiment, r.scale) == (name, scale))
    count = len(found.here | {record.id or record.run_id for record in records})
    runs = f"{count} run{'s' * (count != 1)} at scale {scale} {'is' if count == 1 else 'are'} recorded"
    return Entry(
        name,
        scale,
        problem=f"{runs}, but no file below experiments/ has the name {name}, so its table is not known. Where the "
        "file is elsewhere, name it:",
        commands=("vlm-ablate report FILE.yaml --out FOLDER",),
    )


def _entry(
    name: str, scale: str, file: Path, found: _Found, home: Home, asked: Sequence[Asked], *, ran_only: bool = False
) -> Entry:
    """The report, or why there is none.

    Args:
        ran_only: leave out arms without a run, as for an experiment that lies beside the records of some of its arms.
    """
    from vlm_ablate.cli.records import build_report, joined, recorded, with_rows
    from vlm_ablate.config.expand import EVALUATIONS, load_experiment
    from vlm_ablate.config.loading import arms_text
    from vlm_ablate.config.shipped import experiment_name
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.reporting.site import Entry
    from vlm_ablate.tracking.record_file import RecordFile

    word = _word(file.stem if file.parent == EVALUATIONS else experiment_name(file))
    at = _at(scale)
    run, table = f"vlm-ablate run {word}{at}", f"vlm-ablate table {word}{at}"
    try:
        loaded = load_experiment(file, scale=scale)
        recorded_arms = _arms_of(name, scale, found, asked) if ran_only else {*loaded.arms}
        ran = [arm for arm in loaded.arms if arm in recorded_arms]
        if ran and len(ran) < len(loaded.arms):
            loaded = load_experiment(file, scale=scale, arms=ran)
            run, table = (f"{command} --arms {_word(arms_text(ran))}" for command in (run, table))
        arms = {*loaded.arms, *loaded.left_out}
        if any(each.arm not in arms for each in asked if (each.experiment, each.scale) == (name, scale)):
            loaded = with_rows(loaded, home)
        source = recorded(loaded, home, asked=asked) if found.here else RecordFile([])
        for read in found.files:
            source = joined(source, read, name, scale)
        report = build_report(loaded, source)
    except VlmAblateError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Entry(name, scale, _title(file), problem=f"{error.message}{hint}", commands=(run, table))
    seeds = sorted({r.seed for r in source.records if r.run_id in report.run_ids})
    if seeds and seeds != list(loaded.experiment.seeds):
        run += f" --seeds {','.join(map(str, seeds))}"
    return Entry(
        name, scale, report.title, report, source.records, source.histories, source.answers, source.examples,
        (run, table),
    )  # fmt: skip


def _arms_of(name: str, scale: str, found: _Found, asked: Sequence[Asked]) -> set[str]:
    """The arms that have runs, in records files or in the home."""
    records = (r for read in found.files for r in read.records if (r.experiment, r.scale) == (name, scale))
    return {r.arm for r in records} | {a.arm for a in asked if (a.experiment, a.scale) == (name, scale)}


def _word(text: str) -> str:
    """As a shell reads it as one word."""
    return shlex.quote(text)
