"""Whether a benchmark can tell arms apart: above its blind floor, below its ceiling, rising with training, not noise.

The criteria are those by which small training runs are judged (FineWeb, arXiv:2406.17557, and the FineTasks that
followed it; signal and noise: arXiv:2508.13144), with thresholds of our own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vlm_ablate.reporting.agreement import compare_order
from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, Point

EDGE = 0.05
"""Share of the way from the blind floor to the ceiling within which an arm sits at either."""
RISING = 1 / 3
"""Least Kendall's tau of step and score: of two points of a curve the later is higher in two of three cases."""
CURVE_METRIC = schema.curve_metric(schema.MEAN)
"""The mean score along the way."""


def curve_of(history: History, metric: str = CURVE_METRIC) -> list[Point]:
    """A run's scores along the way, without what is no number."""
    return [point for point in history.get(metric, ()) if math.isfinite(point.value)]


@dataclass(frozen=True)
class Health:
    """Of one column, or of their mean."""

    column: str
    at_floor: Mapping[str, str]
    """Arm -> label of those that score hardly more than without images."""
    at_ceiling: Mapping[str, str]
    """Arm -> label of those that leave nothing to be gained; none where an arm passes what was taken for a ceiling."""
    passed: bool
    """Whether an arm does so: words tell the language model less than images tell an arm that was trained on them."""
    rising: float | None
    """Mean of Kendall's tau of step and score over runs of arms that sit at neither edge, where nothing rises; None: no
    such arm was scored along the way."""
    signal_to_noise: float | None
    """Spread of the arms' means over the spread of seeds within arms; None: too few of either, or
    one number everywhere."""

    @property
    def monotone(self) -> bool | None:
        """Whether scores rise with training; None: not known."""
        return None if self.rising is None else self.rising >= RISING

    def silence(self, arms: Collection[str]) -> str:
        """Why a comparison of these arms says nothing; "" when it may."""
        parts = [
            f"{label} sits at the {edge}"
            for edge, found in (("blind floor", self.at_floor), ("ceiling", self.at_ceiling))
            for arm, label in found.items()
            if arm in arms
        ]
        if self.monotone is False:
            parts.append("the score does not rise with training")
        return "; ".join(parts)


def look_after(
    rows: Sequence[ArmRow],
    columns: Sequence[str],
    floor: Mapping[str, float],
    ceiling: Mapping[str, float],
    histories: Mapping[str, Mapping[int, History]],
) -> dict[str, Health]:
    """The health of each column and of "mean".

    Args:
        floor, ceiling: by column, as far as known.
        histories: by arm and seed, of the runs that finished.
    """
    return {column: _health(column, rows, floor, ceiling, histories) for column in (schema.MEAN, *columns)}


def _health(
    column: str,
    rows: Sequence[ArmRow],
    floor: Mapping[str, float],
    ceiling: Mapping[str, float],
    histories: Mapping[str, Mapping[int, History]],
) -> Health:
    means = {row.arm: found.mean for row in rows if (found := row.score(column))}
    labels = {row.arm: row.label for row in rows}
    low, high = floor.get(column), ceiling.get(column)
    passed = high is not None and any(mean > high + EDGE * (high - (low or 0.0)) for mean in means.values())
    high = None if passed else high
    margin = EDGE * ((100.0 if high is None else high) - (low or 0.0))
    at_floor = {a: labels[a] for a, m in means.items() if low is not None and m < low + margin}
    at_ceiling = {a: labels[a] for a, m in means.items() if high is not None and m > high - margin}
    between = [h for arm, runs in histories.items() if arm not in {*at_floor, *at_ceiling} for h in runs.values()]
    return Health(
        column=column,
        at_floor=at_floor,
        at_ceiling=at_ceiling,
        passed=passed,
        rising=_rising(schema.curve_metric(column), between),
        signal_to_noise=_signal_to_noise([list(row.scores.get(column, {}).values()) for row in rows]),
    )


def _rising(metric: str, histories: Sequence[History]) -> float | None:
    """Over runs with three points or more; a curve that never changes does not rise."""
    curves = [points for history in histories if len(points := curve_of(history, metric)) > 2]
    taus = [compare_order([p.step for p in curve], [p.value for p in curve]).tau for curve in curves]
    return fmean(tau or 0.0 for tau in taus) if taus else None


def _signal_to_noise(scores: Sequence[Sequence[float]]) -> float | None:
    present = [values for values in scores if values]
    degrees = sum(len(values) - 1 for values in present)
    if len(present) < 2 or not degrees:
        return None
    within = sum(stdev(values) ** 2 * (len(values) - 1) for values in present if len(values) > 1) / degrees
    signal = stdev([fmean(values) for values in present])
    if within > 0:
        return signal / math.sqrt(within)
    return math.inf if round(signal, 9) > 0 else None  # one score of all arms and seeds is neither
