"""What scores along the way tell of a table: where more training changes an order, and which runs have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from vlm_ablate.reporting.health import CURVE_METRIC
from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.reporting.statistics import paired_difference
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History

BySeed = dict[int, float]


def budget_notes(rows: Sequence[ArmRow], histories: Mapping[str, Mapping[int, History]]) -> Iterable[tuple[str, str]]:
    """A note for each pair of arms whose order at half of the training is not that at its end.

    Halfway is the last point that is no later than half of the steps. Pairs whose difference at either place lies
    within its half-width of zero are not told: they have no order.

    Args:
        histories: arm -> seed -> history.
    """
    halves, ends = ({row.arm: _scores(histories.get(row.arm, {}), share) for row in rows} for share in (0.5, 1.0))
    turned = []
    for first, second in combinations(rows, 2):
        before, after = (paired_difference(at[first.arm], at[second.arm]) for at in (halves, ends))
        if before is None or after is None or before.mean * after.mean >= 0:
            continue
        if all(d.half_width is not None and abs(d.mean) > d.half_width for d in (before, after)):
            turned.append(f"{first.label} − {second.label}: {before.mean:+.1f} halfway, {after.mean:+.1f} at the end")
    if turned:
        yield "Budget", "more training changes an order (scores along the way, tune split). " + "; ".join(turned) + "."


def curve_notes(rows: Sequence[ArmRow], histories: Mapping[str, Mapping[int, History]]) -> Iterable[tuple[str, str]]:
    """A note where some trained runs have scores along the way and others have none.

    Weights are named without them, so that a run may have those of one that asked for none.
    """
    scored, lacking = False, []
    for row in rows:
        ended = {s: h for s, h in histories.get(row.arm, {}).items() if s in row.scores.get(schema.MEAN, {})}
        without = sorted(seed for seed, history in ended.items() if not history.get(CURVE_METRIC))
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
        points = history.get(CURVE_METRIC, ())
        if len(points) > 1 and (early := [p for p in points if p.step <= share * points[-1].step]):
            found[seed] = early[-1].value
    return found
