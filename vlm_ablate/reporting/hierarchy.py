"""What the choice of items adds to the uncertainty of a mean over seeds: scores crossed by seed x item.

A score of seed s on item i is mean + seed_s + item_i + rest_si, seeds and items drawn at random. The mean of S seeds
and I items then has the variance (seed^2)/S + (item^2)/I + (rest^2)/(S I). The classical analysis of variance without
replication estimates it: the spread of the seeds' means holds the first and the last term, and (MS_item - MS_rest) /
(S I) is the middle one (Cornfield and Tukey 1956). See docs/concepts/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_ITEMS = 10
"""With fewer the spread of items is not estimated."""


@dataclass(frozen=True)
class ItemSpread:
    """The part of a mean's variance that its choice of items causes."""

    variance: float
    df: float
    items: int


def item_spread(values: NDArray[np.floating[Any]]) -> ItemSpread | None:
    """From the values of one benchmark, (seeds, items); None with one seed or hardly any items."""
    seeds, items = values.shape
    if seeds < 2 or items < FEWEST_ITEMS:
        return None
    variance, df = item_variance(values)
    return ItemSpread(float(variance), float(df), items)


def item_variance(values: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], int]:
    """(MS_item - MS_rest) / (S I), at least 0, of (..., seeds, items); and its degrees of freedom, I - 1."""
    seeds, items = values.shape[-2:]
    by_item = values.mean(axis=-2)
    by_seed = values.mean(axis=-1)
    mean = by_item.mean(axis=-1)
    between_items = seeds * ((by_item - mean[..., None]) ** 2).sum(axis=-1)
    between_seeds = items * ((by_seed - mean[..., None]) ** 2).sum(axis=-1)
    total = ((values - mean[..., None, None]) ** 2).sum(axis=(-2, -1))
    rest = np.maximum(total - between_items - between_seeds, 0.0) / ((seeds - 1) * (items - 1))
    return np.maximum(between_items / (items - 1) - rest, 0.0) / (seeds * items), items - 1


def pooled(spreads: Sequence[ItemSpread]) -> ItemSpread:
    """Of the unweighted mean of several benchmarks, whose items have nothing to do with each other.

    Degrees of freedom of a sum of variances: Satterthwaite 1946.
    """
    parts = [s.variance / len(spreads) ** 2 for s in spreads]
    total = sum(parts)
    weights = sum(part**2 / s.df for part, s in zip(parts, spreads, strict=True))
    df = total**2 / weights if weights else float(sum(s.df for s in spreads))
    return ItemSpread(total, df, sum(s.items for s in spreads))


def combined(seed_variance: Any, seed_df: float, items: ItemSpread, confidence: float) -> tuple[Any, Any]:
    """Standard error and degrees of freedom of a mean whose variance is that over seeds plus that over items.

    The t quantile is the mean of both parts' quantiles, weighted by their variances (Cochran's approximation to the
    Behrens-Fisher problem; Cochran and Cox 1957, section 4.14), and the degrees of freedom are those that have it.
    Satterthwaite's, the usual choice, cover 89 % instead of 95 % with two seeds.

    Args:
        seed_variance: of the mean over seeds, above 0; a number or an array.
    """
    from scipy.special import stdtridf, stdtrit

    level = 0.5 + confidence / 2
    variance = seed_variance + items.variance
    share = seed_variance / variance
    quantile = share * stdtrit(seed_df, level) + (1 - share) * stdtrit(items.df, level)
    return np.sqrt(variance), stdtridf(level, quantile)
