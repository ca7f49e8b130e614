"""What scores along the way tell of a table: where more training changes an order, and which runs have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from vlm_ablate.reporting.health import curve_of
from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.reporting.statistics import Difference, paired_difference
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History

BySeed = dict[int, float]


def budget_notes(rows: Sequence[ArmRow], histories: Mapping[str, Mapping[int, History]]) -> Iterable[tuple[str, str]]:
    """A note on the pairs of arms whose order at half of the training is not that at its end, or may not last.

    Halfway is the last point that is no later than half of the steps. Pairs whose difference at either place lies
    within its half-width of zero are not told: they have no order. An order may not last where the difference shrank
    over the last quarter of the steps, by more than its half-width.

    Args:
        histories: arm -> seed -> history, of runs that finished: of others the last point is no end.
    """
    halves, late, ends = (
        {row.arm: _scores(histories.get(row.arm, {}), share) for row in rows} for share in (0.5, 0.75, 1.0)
    )
    turned, shrinking = [], []
    for first, second in combinations(rows, 2):
        before, then, after = (paired_difference(at[first.arm], at[second.arm]) for at in (halves, late, ends))
        if before is None or then is None or after is None or not _ordered(after):
            continue
        pair = f"{first.label} − {second.label}"
        if before.mean * after.mean < 0:
            if _ordered(before):
                turned.append(f"{pair}: {before.mean:+.1f} halfway, {after.mean:+.1f} at the end")
            continue
        gained, other = (_gains(late[row.arm], ends[row.arm]) for row in (first, second))
        change = paired_difference(gained, other)
        if change is not None and _ordered(change) and change.mean * after.mean < 0:
            shrinking.append(f"{pair}: {then.mean:+.1f} after three quarters, {after.mean:+.1f} at the end")
    told = [f"more training changes an order. {'; '.join(turned)}"] if turned else []
    if shrinking:
        told.append(f"more training may change an order, where a difference still shrinks. {'; '.join(shrinking)}")
    if told:
        yield "Budget", f"{'. '.join(told)} (scores along the way, tune split)."


def _ordered(difference: Difference) -> bool:
    """Whether it is further from zero than its half-width."""
    return difference.half_width is not None and abs(difference.mean) > difference.half_width


def _gains(before: BySeed, after: BySeed) -> BySeed:
    return {seed: after[seed] - before[seed] for seed in before.keys() & after.keys()}


def curve_notes(rows: Sequence[ArmRow], histories: Mapping[str, Mapping[int, History]]) -> Iterable[tuple[str, str]]:
    """A note where some trained runs have scores along the way and others have none.

    Weights are named without them, so that a run may have those of one that asked for none.
    """
    scored, lacking = False, []
    for row in rows:
        ended = {s: h for s, h in histories.get(row.arm, {}).items() if s in row.scores.get(schema.MEAN, {})}
        without = sorted(seed for seed, history in ended.items() if not curve_of(history))
        scored = scored or len(without) < len(ended)
        if without:
            lacking.append(f"{row.label} (seed {', '.join(map(str, without))})")
    if scored and lacking:
        told = "whose weights were trained without; `run --rerun` trains them again with"
        yield "Scores along the way", f"none of {'; '.join(lacking)}, {told}."


def _scores(by_seed: Mapping[int, History], share: float) -> BySeed:
    """Seed -> score at that share of the training."""
    found: BySeed = {}
    for seed, history in by_seed.items():
        points = curve_of(history)
        if len(points) > 1 and (early := [p for p in points if p.step <= share * points[-1].step]):
            found[seed] = early[-1].value
    return found
