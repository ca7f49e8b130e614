"""Orders of arms: ranks with their uncertainty, and how ours agree with a paper's in one table and over many."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any


@dataclass(frozen=True)
class Order:
    """How two rankings of the same arms compare."""

    arms: int
    concordant: int
    discordant: int
    tau: float | None
    """Kendall's tau-b; None when one ranking is constant or has fewer than two arms."""
    tied: int = 0
    """Pairs that the first ranking does not tell apart."""
    left_out: int = 0
    """Pairs that were not compared."""

    @property
    def pairs(self) -> int:
        """Pairs of arms that were compared, tied ones included."""
        return self.arms * (self.arms - 1) // 2 - self.left_out

    @property
    def told(self) -> int:
        """Pairs that were compared and that the first ranking tells apart."""
        return self.pairs - self.tied

    @property
    def same(self) -> bool:
        """Both rankings order every pair alike that the first one tells apart."""
        return 0 < self.told == self.concordant


def compare_order(
    first: Sequence[float],
    second: Sequence[float],
    left_out: Collection[frozenset[int]] = (),
    alike: Collection[frozenset[int]] = (),
) -> Order:
    """Kendall's tau-b of two scorings of the same arms: (C - D) / sqrt((P - T1) (P - T2)), ties T in each.

    Args:
        left_out: pairs of places that are not compared.
        alike: pairs that are ties of the first ranking, whatever its numbers.
    """
    concordant = discordant = ties_first = ties_second = 0
    compared = [(i, j) for i, j in combinations(range(len(first)), 2) if frozenset((i, j)) not in left_out]
    for i, j in compared:
        a = 0.0 if frozenset((i, j)) in alike else first[i] - first[j]
        b = second[i] - second[j]
        ties_first += a == 0
        ties_second += b == 0
        concordant += a * b > 0
        discordant += a * b < 0
    pairs = len(compared)
    scale = math.sqrt((pairs - ties_first) * (pairs - ties_second))
    tau = (concordant - discordant) / scale if scale else None
    return Order(len(first), concordant, discordant, tau, ties_first, math.comb(len(first), 2) - pairs)


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """Competition ranks, 1 for the highest; equal values share a rank, None stays None."""
    present = [v for v in values if v is not None]
    return [None if v is None else 1 + sum(other > v for other in present) for v in values]


def rank_ranges(arms: Sequence[str], beats: Collection[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Best and worst rank that an arm may have, given which arms can be told apart: those that cannot form a group.

    The best is one more than the arms that beat it, the worst leaves room for those it beats (Klein, Wright and
    Wieczorek 2020, with tests of pairs in place of joint intervals).

    Args:
        beats: (better, worse) of the pairs that can be told apart.
    """
    return {
        arm: (
            1 + sum((other, arm) in beats for other in arms),
            len(arms) - sum((arm, other) in beats for other in arms),
        )
        for arm in arms
    }


@dataclass(frozen=True)
class Agreement:
    """How far the orders of many tables agree with the papers'."""

    tables: int
    concordant: int
    pairs: int
    """Pairs of arms that the papers' numbers tell apart, over all tables."""
    tau: float
    """Over all these pairs, (concordant - discordant) / pairs: 1 for the same orders, 0 for chance."""
    low: float | None
    """Ends of the 95 % interval; None for one table."""
    high: float | None


def agreement(orders: Sequence[Order]) -> Agreement | None:
    """Pooled over tables, with a bootstrap interval over tables (scipy.stats.bootstrap, BCa, 9,999 resamples).

    Tables are what is drawn again: pairs of one table share arms and seeds. None where there is no pair.
    """
    import numpy as np

    told = np.array([(o.concordant, o.discordant, o.told) for o in orders if o.told])
    if not len(told):
        return None

    def tau(index: Any, axis: int = -1) -> Any:
        drawn = told[index].sum(axis=axis if axis >= 0 else axis - 1)
        return (drawn[..., 0] - drawn[..., 1]) / drawn[..., 2]

    ends = _interval(len(told), tau)
    c, d, pairs = map(int, told.sum(axis=0))
    return Agreement(len(told), c, pairs, (c - d) / pairs, *ends)


def _interval(tables: int, statistic: Callable[..., Any]) -> tuple[float | None, float | None]:
    if tables < 2:
        return None, None
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa has no answer where all tables agree alike
        for method in ("BCa", "percentile"):
            found = bootstrap(
                (np.arange(tables),), statistic, vectorized=True, method=method, rng=np.random.default_rng(0)
            ).confidence_interval
            if math.isfinite(found.low) and math.isfinite(found.high):
                break
    return float(found.low), float(found.high)
