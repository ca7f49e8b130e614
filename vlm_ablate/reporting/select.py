"""Which records a table is computed from, and the refusal to put unlike ones in one column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.errors import DataError, UnknownNameError, VlmAblateError
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.runs.once import once
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import RunRecord


@dataclass(frozen=True)
class Selection:
    """One record for each arm and seed that was run at one scale."""

    scale: str
    runs: Mapping[str, Mapping[int, RunRecord]]
    """Arm (in the experiment's order) -> seed -> record."""
    columns: tuple[str, ...]
    """Benchmarks in the experiment's order."""
    protocols: Mapping[str, ScoreRecord]
    """Column -> one of its equal score protocols."""
    left_out: int = 0
    """Records of the experiment that belong to another configuration."""

    def records(self) -> list[RunRecord]:
        """All selected records, by arm and seed."""
        return [record for by_seed in self.runs.values() for record in by_seed.values()]


def select(
    experiment: Experiment,
    records: Iterable[RunRecord],
    scale: str | None = None,
    ids: Collection[str] | None = None,
) -> Selection:
    """The records of the experiment's arms at one scale: of reruns the latest that ended, else the latest.

    Args:
        ids: of the runs that the experiment expands to; records of other configurations are set aside.

    Raises:
        VlmAblateError: several scales were run and none was named.
        UnknownNameError: the named scale was not run, but others were.
        DataError: seeds of one arm ran with different configurations, or one column holds unlike scores.
    """
    ours = [r for r in records if r.kind == schema.RUN_KIND and r.arm in experiment.arms]
    scale = choose_scale(ours, scale)
    at_scale = [r for r in ours if r.scale == scale]
    kept = [r for r in at_scale if ids is None or r.id in ids]
    runs: dict[str, dict[int, RunRecord]] = {}
    for arm in experiment.arms:
        by_seed: dict[int, RunRecord] = {}
        for record in sorted((r for r in kept if r.arm == arm), key=_preference):
            by_seed[record.seed] = record
        runs[arm] = dict(sorted(by_seed.items()))
        _check_one_configuration(arm, list(runs[arm].values()))
    chosen = [r for by_seed in runs.values() for r in by_seed.values()]
    protocols = check_protocols(chosen)
    written = experiment.evaluation.benchmarks
    columns = [c for c in written if c in protocols or not protocols] + [c for c in protocols if c not in written]
    return Selection(scale, runs, tuple(columns), protocols, len(at_scale) - len(kept))


def choose_scale(records: Sequence[RunRecord], scale: str | None) -> str:
    """The scale named, or the only one there is ("" when nothing was run).

    Raises:
        VlmAblateError: several and none named.
        UnknownNameError: named, not run, but others were.
    """
    found = list(dict.fromkeys(r.scale for r in records))
    if scale is not None:
        if found and scale not in found:
            raise UnknownNameError("scale (among the runs of this experiment)", scale, found)
        return scale
    if len(found) > 1:
        counts = ", ".join(f"{name} ({sum(r.scale == name for r in records)} runs)" for name in found)
        raise VlmAblateError(
            f"this experiment was run at several scales: {counts}; a table shows one",
            hint=f"add --scale {found[0]}",
        )
    return found[0] if found else ""


def _preference(record: RunRecord) -> tuple[bool, int, str]:
    """Sort key: what ended after what did not, then by start, of equal ones by id; the last one wins."""
    return (record.status in schema.DONE, record.start_time, record.run_id)


def _check_one_configuration(arm: str, records: Sequence[RunRecord]) -> None:
    """Seeds of one arm may differ in their seeds only.

    Raises:
        DataError: naming the runs and the first differing field.
    """
    done = [r for r in records if r.status in schema.DONE]
    mine = _configuration(done[0]) if done else {}
    for other in done[1:]:
        theirs = _configuration(other)
        if mine == theirs:
            continue
        differing = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if differing:
            key = differing[0]
            raise DataError(
                f"runs {done[0].name!r} and {other.name!r} of arm {arm!r} were trained with different configurations: "
                f"{key} is {mine.get(key, 'not set')} and {theirs.get(key, 'not set')}"
                + (f" ({len(differing) - 1} more fields differ)" if len(differing) > 1 else ""),
                hint="run the arm again with all its seeds, or delete the outdated runs",
            )


def _configuration(record: RunRecord) -> dict[str, str]:
    row = f"{schema.PARAM_ARM}."  # what the paper calls the arm, no part of its configuration
    return {k: v for k, v in record.params.items() if k != schema.PARAM_SEED and not k.startswith(("seeds.", row))}


def scores_of(record: RunRecord) -> list[ScoreRecord]:
    """The score records of a run that finished; none otherwise (a diverged run has no score).

    Raises:
        DataError: a score that is none, with the run's name.
    """
    # With the record itself, so that no other one gets its place in memory.
    return once(("scores", id(record)), lambda: (record, _scores_of(record)))[1]


def _scores_of(record: RunRecord) -> list[ScoreRecord]:
    try:
        return [ScoreRecord.from_dict(d) for d in record.scores] if record.status == schema.FINISHED else []
    except DataError as error:
        raise DataError(f"run {record.name!r}: {error.message}") from error


def check_protocols(records: Iterable[RunRecord]) -> dict[str, ScoreRecord]:
    """Column -> its protocol, the same in all runs; blind scores must differ from it in `blind` only.

    Raises:
        DataError: two runs whose scores must not share a column, with the fields in which they differ.
    """
    first: dict[str, tuple[ScoreRecord, RunRecord]] = {}
    for record in records:
        for score in scores_of(record):
            reference, run = first.setdefault(score.column, (score, record))
            unlike = {k: v for k, v in reference.differences(score).items() if k != "blind"}
            if unlike:
                what = "; ".join(f"{name} is {mine!r} and {theirs!r}" for name, (mine, theirs) in unlike.items())
                raise DataError(
                    f"column {score.column!r} would mix unlike scores of runs {run.name!r} and {record.name!r}: {what}",
                    hint="evaluate both under one protocol, or leave one out with --arms or --seeds",
                )
    return {column: score for column, (score, _) in first.items()}
