"""Scores by item, as far as records have them, and what their spread adds to an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.reporting.hierarchy import ItemSpread, item_spread, pooled
from vlm_ablate.tracking import schema

Items = Mapping[str, Mapping[int, NDArray[np.floating[Any]]]]
"""Column -> seed -> score of each item, in the benchmark's order."""


def item_scores(score: ScoreRecord, values: Sequence[float | None] | None) -> NDArray[np.floating[Any]] | None:
    """An evaluation's scores by item on 0..100 (an answer that could not be read counts 0).

    None where there are none, or where the score is not their mean (a measure of the whole set, or a file of another
    evaluation): then the interval is over seeds alone.
    """
    if not values or len(values) != score.items:
        return None
    scaled = [0.0 if value is None else 100.0 * value for value in values]
    return np.array(scaled) if math.isclose(fmean(scaled), score.score, abs_tol=0.05) else None


def spread_of(mine: Items, theirs: Items | None, column: str, seeds: Sequence[int]) -> ItemSpread | None:
    """What the choice of items adds to a mean, or (with `theirs`) to a paired difference, over these seeds.

    For "mean" over all columns. None where some seed has no scores by item.
    """
    if column == schema.MEAN:
        parts = [spread_of(mine, theirs, name, seeds) for name in mine]
        known = [part for part in parts if part is not None]
        return pooled(known) if known and len(known) == len(parts) else None
    values = [_values(mine, theirs, column, seed) for seed in seeds]
    present = [v for v in values if v is not None]
    if not present or len(present) < len(values) or len({len(v) for v in present}) > 1:
        return None
    return item_spread(np.stack(present))


def _values(mine: Items, theirs: Items | None, column: str, seed: int) -> NDArray[np.floating[Any]] | None:
    first = mine.get(column, {}).get(seed)
    if theirs is None or first is None:
        return first
    second = theirs.get(column, {}).get(seed)
    return first - second if second is not None and len(second) == len(first) else None
