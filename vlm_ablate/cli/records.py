"""The records that a table is computed from, and the report on them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.reporting import Report
    from vlm_ablate.runs.catalogue import Asked
    from vlm_ablate.tracking.record_file import RecordFile
    from vlm_ablate.tracking.records import RunRecord


def with_rows(loaded: LoadedExperiment, home: Home) -> LoadedExperiment:
    """The experiment with the rows that `evaluate` added; those asked in another way are told."""
    from vlm_ablate.cli.console import warn
    from vlm_ablate.runs.evaluated import with_evaluated

    rows = with_evaluated(loaded, home)
    at = f"{loaded.experiment.name} at scale {loaded.scale.name}"
    warn([f"evaluated in another way than {at}, and left out: {row}" for row in rows.left_out])
    return rows.loaded


def recorded(
    loaded: LoadedExperiment,
    home: Home,
    tracking_uri: str | None = None,
    seeds: list[int] | None = None,
    *,
    asked: Sequence[Asked] | None = None,
) -> RecordFile:
    """The records of an experiment as it is written now, from the home's disk; what is not there, from a store.

    A run one of whose files is damaged is a warning.

    Args:
        tracking_uri: a store that others record in; None: the disk only.
        seeds: only these; None: the file's, and any others that were run.
        asked: all runs of the home, where they were read already.

    Raises:
        TrackingError: nothing was run here, or the store fails.
    """
    from vlm_ablate.cli.console import warn
    from vlm_ablate.cli.home import home_words
    from vlm_ablate.errors import TrackingError
    from vlm_ablate.reporting.figures import history_metrics
    from vlm_ablate.runs.catalogue import (
        asked_here,
        examples_of,
        histories_of,
        others_asked,
        recorded_of,
        seeds_asked,
    )
    from vlm_ablate.runs.spec import specs_of
    from vlm_ablate.tracking.read import read_history, read_records
    from vlm_ablate.tracking.record_file import RecordFile

    experiment = loaded.experiment
    known = asked_here(home) if asked is None else asked
    numbers = {*experiment.seeds, *(seeds or ()), *seeds_asked(known, experiment.name, loaded.scale.name)}
    every = specs_of(loaded, seeds=sorted(numbers))
    specs = [spec for spec in every if seeds is None or spec.seed in seeds]
    unread: list[str] = []
    told = recorded_of(specs, home, lambda spec, error: unread.append(f"{spec.run_name} is left out: {error.message}"))
    warn(unread)
    found = [results for results, _ in told]
    wanted_metrics = history_metrics(experiment.evaluation.benchmarks)
    records, histories = [record for _, record in told], dict(histories_of(found, wanted_metrics))
    if tracking_uri is not None:
        here, wanted = {record.id: record for record in records}, {spec.id for spec in specs}
        theirs = read_records(tracking_uri, experiment.name)
        new = [r for r in theirs if r.id in wanted and _counts_more(r, here.get(r.id))]
        records = _without(records, new) + new
        histories |= {r.run_id: read_history(tracking_uri, r.run_id, wanted_metrics) for r in new}
    if not records and not home.runs.is_dir():
        scale = [] if loaded.scale.name == "laptop" else ["--scale", loaded.scale.name]
        command = shlex.join(["vlm-ablate", "run", str(loaded.file), *scale, *home_words(home)])
        raise TrackingError(f"nothing was run in {home.root}", hint=f"run the experiment first: {command}")
    others = others_asked(known, experiment.name, loaded.scale.name, experiment.arms, {spec.id for spec in every})
    answers = {results.spec.id: results.answers for results in found}
    return RecordFile(records, histories, others, answers, examples_of(found))


def joined(source: RecordFile, read: RecordFile, name: str, scale: str) -> RecordFile:
    """With the runs of a records file, of an experiment at a scale, that are not there or have not ended there."""
    from dataclasses import replace

    here = {record.id: record for record in source.records}
    ours = (r for r in read.records if (r.experiment, r.scale) == (name, scale))
    new = [r for r in ours if _counts_more(r, here.get(r.id))]
    of = {record.run_id for record in new}
    return replace(
        source,
        records=_without(source.records, new) + new,
        histories={**source.histories, **{run: h for run, h in read.histories.items() if run in of}},
        answers={**source.answers, **{run: a for run, a in read.answers.items() if run in of}},
        examples={**read.examples, **source.examples, **{run: e for run, e in read.examples.items() if run in of}},
    )


def _counts_more(other: RunRecord, here: RunRecord | None) -> bool:
    """Whether a run's record from elsewhere stands for it: there is none here, or one that has not ended as it has."""
    from vlm_ablate.tracking import schema

    return here is None or (other.status in schema.DONE and here.status not in schema.DONE)


def _without(records: Sequence[RunRecord], others: Sequence[RunRecord]) -> list[RunRecord]:
    """The records but those of the same runs."""
    given = {record.id for record in others}
    return [record for record in records if record.id not in given]


def build_report(loaded: LoadedExperiment, source: RecordFile, seeds: list[int] | None = None) -> Report:
    """The report of an experiment as it is written now; records of other configurations are set aside.

    Args:
        seeds: only these; None: all that have records.
    """
    from vlm_ablate.reporting import report
    from vlm_ablate.runs.spec import specs_of

    experiment, records = loaded.experiment, source.records
    if seeds is not None:
        experiment = experiment.model_copy(update={"seeds": seeds})
        records = [record for record in records if record.seed in seeds]
    numbers = sorted({*experiment.seeds, *(record.seed for record in records)})
    ids = {spec.id for spec in specs_of(loaded, seeds=numbers)}
    remarks = _remarks(loaded)
    return report(
        experiment,
        records,
        loaded.scale.name,
        ids=ids,
        left_out=len(source.left_out - {record.id for record in records}),  # those are counted there
        remarks=remarks,
        histories=source.histories,
    )


def _remarks(loaded: LoadedExperiment) -> list[tuple[str, str]]:
    """What the table shows other than the file says."""
    from vlm_ablate.config.compose import flatten, nest
    from vlm_ablate.reporting.notes import told_revision

    remarks = []
    if loaded.sets:
        remarks.append(("Set by hand", f"{'; '.join(loaded.sets)}."))
    for arm in loaded.arms.values():
        if (tuned := arm.tuned) is not None:
            fields = flatten(nest(tuned.set)).items()
            values = ", ".join(f"{'.'.join(path)} = {_short(value)}" for path, value in fields)
            of = f" by code of {told_revision(tuned.revision)}" if tuned.revision else ""
            remarks.append(("Tuned", f"{arm.label}: {values}; trial {tuned.trial} of the sweep {tuned.sweep},"
                                     f" chosen on the tune split{of}."))  # fmt: skip
    if loaded.left_out:
        labels = "; ".join(loaded.left_out.values())
        remarks.append(("Arms left out", f"{labels}. Ranks and order are those among the arms shown."))
    return remarks


def _short(value: object) -> str:
    """A number that a sampler drew, to four digits; the file has all of them."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
