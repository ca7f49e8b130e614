"""Intervals over seeds and items: the estimator by hand, and that it covers what it says on data of our own design."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from vlm_ablate.reporting.hierarchy import ItemSpread, combined, item_spread, item_variance, pooled
from vlm_ablate.reporting.statistics import estimate, t_quantile

ITEMS, TIMES = 100, 8_000


def test_mean_squares_are_those_of_the_analysis_of_variance() -> None:
    values = np.random.default_rng(0).normal(size=(3, 12))
    grand, item, seed = values.mean(), values.mean(0, keepdims=True), values.mean(1, keepdims=True)
    between = 3 * ((item - grand) ** 2).sum() / 11
    rest = ((values - item - seed + grand) ** 2).sum() / (2 * 11)
    variance, df = item_variance(values)
    assert (variance, df) == (pytest.approx(max(0.0, between - rest) / 36), 11)


def test_no_spread_without_seeds_or_items() -> None:
    assert item_spread(np.ones((1, 50))) is None
    assert item_spread(np.ones((3, 2))) is None
    assert item_spread(np.ones((3, 50))) == ItemSpread(0.0, 49.0, 50)


def test_items_that_behave_alike_leave_the_interval_over_seeds() -> None:
    seeds = [40.0, 42.0, 44.0]
    assert estimate(seeds, ItemSpread(0.0, 99.0, 100)).half_width == estimate(seeds).half_width
    assert estimate(seeds, ItemSpread(0.0, 99.0, 100)).items == 100


def test_the_quantile_lies_between_those_of_both_parts() -> None:
    mostly_seeds, mostly_items = (combined(1.0, 2, ItemSpread(v, 299.0, 300), 0.95) for v in (1e-6, 1e6))
    assert t_quantile(mostly_seeds[1]) == pytest.approx(t_quantile(2), rel=1e-3)
    assert t_quantile(mostly_items[1]) == pytest.approx(t_quantile(299), rel=1e-3)


def test_of_a_mean_of_benchmarks_each_counts_with_its_share() -> None:
    found = pooled([ItemSpread(4.0, 99.0, 100), ItemSpread(0.0, 299.0, 300)])
    assert (found.variance, found.df, found.items) == (1.0, pytest.approx(99.0), 400)


def half_widths(values: np.ndarray) -> np.ndarray:
    """Of the mean of (..., seeds, items)."""
    seeds = values.shape[-2]
    variance, df = item_variance(values)
    over_seeds = values.mean(-1).var(-1, ddof=1) / seeds
    error, degrees = combined(over_seeds, seeds - 1, ItemSpread(variance, df, values.shape[-1]), 0.95)
    return stdtrit(degrees, 0.975) * error


@pytest.mark.parametrize("seeds", [2, 3, 4, 6, 10])
def test_the_interval_covers_95_percent(seeds: int) -> None:
    """Differences of two arms in points: seeds spread by 0 to 3, items by up to 6, the rest by 40 (right or wrong)."""
    rng = np.random.default_rng(seeds)
    for seed_spread, item_spread_ in ((0.0, 0.0), (1.5, 4.0), (3.0, 6.0)):
        rest = rng.standard_normal((TIMES, seeds, ITEMS), dtype=np.float32) * 40
        rest += rng.standard_normal((TIMES, seeds, 1), dtype=np.float32) * seed_spread
        rest += rng.standard_normal((TIMES, 1, ITEMS), dtype=np.float32) * item_spread_
        covered = np.mean(np.abs(rest.mean((-2, -1))) <= half_widths(rest))
        assert abs(covered - 0.95) <= 0.015, (seed_spread, item_spread_, covered)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_where_items_matter_most_it_covers_more_and_seeds_alone_far_less(seeds: int) -> None:
    """Items spread as much as the rest: other items would move the mean, which an interval over seeds cannot know."""
    rng = np.random.default_rng(100 + seeds)
    values = rng.standard_normal((TIMES, seeds, ITEMS)) * 30 + rng.standard_normal((TIMES, 1, ITEMS)) * 30
    mean = np.abs(values.mean((-2, -1)))
    alone = t_quantile(seeds - 1) * np.sqrt(values.mean(-1).var(-1, ddof=1) / seeds)
    assert 0.935 <= np.mean(mean <= half_widths(values)) <= 0.99
    assert np.mean(mean <= alone) < 0.93
