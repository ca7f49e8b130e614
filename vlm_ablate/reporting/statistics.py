"""Means, intervals, paired differences and tests. Small samples (seeds), so everything is Student's t.

Formulas and their sources: docs/concepts/statistics.md. `scipy.special` is imported on use and `scipy.stats` not at
all: a table must print in about a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from vlm_ablate.reporting.hierarchy import ItemSpread, combined

CONFIDENCE = 0.95
"""Level of every interval that this package prints."""
POWER = 0.8
"""Chance with which a difference of the size called visible would have been seen."""
_NO_SPREAD = 1e-9
"""Points. A standard error below this is rounding: the differences of all seeds are one number."""


class Verdict(StrEnum):
    """What the runs say about a claim of the paper."""

    agrees = "agrees"
    contradicts = "contradicts"
    not_separable = "not separable"
    says_nothing = "says nothing"
    """An arm sits at the blind floor or the ceiling, or the benchmark does not rise with training."""
    not_run = "not run"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `half_width` is None when one value gives no interval."""

    mean: float
    half_width: float | None
    n: int
    """Seeds."""
    error: float | None = None
    """Standard error of the mean; with `items`, that of any seeds and any items."""
    df: float | None = None
    """Degrees of freedom of the t distribution that the interval comes from."""
    items: int = 0
    """Items whose choice the interval covers, too; 0: it is over seeds alone."""

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
    """A paired mean difference over common seeds; `p` is the two-sided p-value of no difference."""

    p: float | None = None


def t_quantile(df: float, confidence: float = CONFIDENCE) -> float:
    """Two-sided Student t quantile, e.g. 4.303 for df 2 at 95 %."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2))


def estimate(
    values: Sequence[float], items: ItemSpread | None = None, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean and interval of one value per seed; None for no values.

    Over seeds alone mean +- t * s / sqrt(n), s with n - 1. With `items` the interval is over seeds and items
    (`hierarchy.combined`).
    """
    if not values:
        return None
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, 1)
    error, df = stdev(values) / math.sqrt(n), float(n - 1)
    if items is not None and items.variance > 0:
        error, df = map(float, combined(error**2, n - 1, items, confidence))
    return Estimate(mean, t_quantile(df, confidence) * error, n, error, df, items.items if items else 0)


def paired_difference(
    first: Mapping[int, float],
    second: Mapping[int, float],
    items: ItemSpread | None = None,
    confidence: float = CONFIDENCE,
) -> Difference | None:
    """first - second over the seeds both have: a seed fixes the data order of all arms, so differences pair by seed.

    None when they share no seed. One number with all seeds, as coarse scores of few seeds give by chance, has no spread
    to judge it by: there is no interval then, and no test, not even where items are known (they never replace seeds).
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    found = estimate(differences, items, confidence)
    if found is None:
        return None
    if found.n > 1 and stdev(differences) / math.sqrt(found.n) < _NO_SPREAD:
        return Difference(found.mean, None, found.n)
    return Difference(**vars(found), p=p_value(found))


def p_value(found: Estimate, null: float = 0.0) -> float | None:
    """Two-sided p-value of the t-test that the mean is `null`; None for one value."""
    if found.error is None or found.df is None:
        return None
    return 2 * _tail(-abs(found.mean - null), found.error, found.df) if found.mean != null else 1.0


def equivalence_p(found: Estimate, margin: float) -> float | None:
    """p-value of two one-sided tests (TOST, Schuirmann 1987) that the mean lies within +-margin; None for one value.

    Below 0.05 exactly when the 90 % interval lies within the margin.
    """
    if found.error is None or found.df is None:
        return None
    return max(_tail(side * found.mean - margin, found.error, found.df) for side in (1, -1))


def beyond_p(found: Estimate, margin: float) -> float | None:
    """Two-sided p-value that the mean lies within +-margin or on its edge; None for one value."""
    if found.error is None or found.df is None:
        return None
    return min(1.0, 2 * _tail(margin - abs(found.mean), found.error, found.df))


def _tail(distance: float, error: float, df: float) -> float:
    """P(T <= distance / error); the sign of the distance decides when there is no error."""
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if distance < 0 else 0.5 if distance == 0 else 1.0
    return float(stdtr(df, distance / error))


def visible(found: Estimate, power: float = POWER) -> float | None:
    """The smallest true difference that the test at 95 % would have seen with this chance; None for one value.

    From the noncentral t distribution: the noncentrality at which the two-sided test rejects with that chance (the
    other tail is neglected), times the standard error.
    """
    if found.error is None or found.df is None:
        return None
    from scipy.special import nctdtrinc

    return float(nctdtrinc(found.df, 1 - power, t_quantile(found.df))) * found.error


def visible_margin(found: Estimate, power: float = POWER) -> float | None:
    """The smallest margin within which equal arms would have been shown alike with this chance; None for one value.

    (t(0.95) + t(1 - (1 - power) / 2)) standard errors: both one-sided tests must reject.
    """
    if found.error is None or found.df is None:
        return None
    return (t_quantile(found.df, 0.9) + t_quantile(found.df, power)) * found.error


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979). Controls the family-wise error rate."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
