"""Means, intervals, paired differences, verdicts and orders. Small samples (seeds), so everything is Student's t.

`scipy.special` is imported on use and `scipy.stats` not at all: a table must print in about a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Level of every interval that this package prints."""


class Verdict(StrEnum):
    """What the runs say about a claim of the paper."""

    agrees = "agrees"
    contradicts = "contradicts"
    not_separable = "not separable"
    not_run = "not run"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `half_width` is None when one value gives no interval."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired mean difference over common seeds; `p` is the two-sided p-value of the paired t-test."""

    p: float | None = None


def t_quantile(df: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided Student t quantile, e.g. 4.303 for df 2 at 95 %."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2))


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean and t-interval (mean +- t * s / sqrt(n), s with n - 1) of one value per seed; None for no values."""
    if not values:
        return None
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, 1)
    return Estimate(mean, t_quantile(n - 1, confidence) * stdev(values) / math.sqrt(n), n)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """first - second over the seeds both have: a seed fixes the data order of all arms, so differences pair by seed.

    None when they share no seed.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    found = estimate(differences, confidence)
    if found is None:
        return None
    return Difference(found.mean, found.half_width, found.n, _p_value(differences))


def _p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the one-sample t-test against zero; None for one value."""
    n = len(differences)
    if n < 2:
        return None
    from scipy.special import stdtr

    mean, error = fmean(differences), stdev(differences) / math.sqrt(n)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / error))


def judge(difference: Difference | None, relation: str = "better", margin: float = 1.0) -> Verdict:
    """The verdict on a claim from the paired difference better - worse.

    "better": agrees when the interval lies above zero, contradicts when it lies below.
    "similar": agrees when the interval lies within +-margin (an equivalence test, on the strict side because it uses
    the 95 % interval and not the 90 % one), contradicts when it lies outside. Anything else, and one seed, is
    not separable.
    """
    if difference is None:
        return Verdict.not_run
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Verdict.not_separable
    if relation == "similar":
        if -margin <= low and high <= margin:
            return Verdict.agrees
        return Verdict.contradicts if low > margin or high < -margin else Verdict.not_separable
    if low > 0:
        return Verdict.agrees
    return Verdict.contradicts if high < 0 else Verdict.not_separable


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979). Controls the family-wise error rate."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Order:
    """How two rankings of the same arms compare."""

    arms: int
    concordant: int
    discordant: int
    tau: float | None
    """Kendall's tau-b; None when one ranking is constant or has fewer than two arms."""

    @property
    def pairs(self) -> int:
        """Pairs of arms, tied ones included."""
        return self.arms * (self.arms - 1) // 2

    @property
    def same(self) -> bool:
        """Both rankings order every pair alike."""
        return self.arms > 1 and self.concordant == self.pairs


def compare_order(first: Sequence[float], second: Sequence[float]) -> Order:
    """Kendall's tau-b of two scorings of the same arms: (C - D) / sqrt((P - T1) (P - T2)), ties T in each."""
    concordant = discordant = ties_first = ties_second = 0
    for i, j in combinations(range(len(first)), 2):
        a, b = first[i] - first[j], second[i] - second[j]
        ties_first += a == 0
        ties_second += b == 0
        concordant += a * b > 0
        discordant += a * b < 0
    pairs = len(first) * (len(first) - 1) // 2
    scale = math.sqrt((pairs - ties_first) * (pairs - ties_second))
    return Order(len(first), concordant, discordant, (concordant - discordant) / scale if scale else None)


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """Competition ranks, 1 for the highest; equal values share a rank, None stays None."""
    present = [v for v in values if v is not None]
    return [None if v is None else 1 + sum(other > v for other in present) for v in values]
