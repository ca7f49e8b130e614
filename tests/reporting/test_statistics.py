"""The statistics of the table, against scipy.stats and by hand."""

from __future__ import annotations

import pytest
from scipy import stats

from vlm_ablate.reporting.statistics import (
    POWER,
    Estimate,
    beyond_p,
    equivalence_p,
    estimate,
    holm,
    paired_difference,
    t_quantile,
    visible,
    visible_margin,
)

SCORES = [51.25, 48.5, 53.75, 50.0]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_interval_is_that_of_scipy(n: int) -> None:
    values = SCORES[:n]
    found = estimate(values)
    low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.n == n


def test_quantile_with_three_seeds() -> None:
    assert t_quantile(2) == pytest.approx(4.3027, abs=1e-4)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    only = estimate([3.0])
    assert (only.mean, only.half_width, only.low, only.n) == (3.0, None, None, 1)
    assert estimate([]) is None


def test_paired_difference_is_the_paired_t_test_over_common_seeds() -> None:
    first, second = dict(enumerate(SCORES)), {0: 50.0, 1: 47.5, 2: 51.0, 9: 99.0}
    found = paired_difference(first, second)
    reference = stats.ttest_rel(SCORES[:3], [50.0, 47.5, 51.0])
    interval = reference.confidence_interval(0.95)
    assert found.n == 3
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_pairing_separates_what_the_spread_between_seeds_hides() -> None:
    # Seeds differ by 20 points, the arms by 1 in every seed.
    first, second = {0: 40.0, 1: 50.1, 2: 60.0}, {0: 39.0, 1: 49.0, 2: 59.05}
    assert paired_difference(first, second).low > 0
    assert estimate(list(first.values())).low < estimate(list(second.values())).high


def test_no_common_seed_is_no_difference() -> None:
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


@pytest.mark.parametrize("by", [0.0, 0.1, 1.0])
def test_equal_differences_in_all_seeds_have_no_spread_to_be_judged_by(by: float) -> None:
    first = {0: 1.0, 1: 2.7, 2: 40.3}
    found = paired_difference({seed: value + by for seed, value in first.items()}, first)
    assert found is not None and found.mean == pytest.approx(by)
    assert (found.n, found.half_width, found.p) == (3, None, None)
    assert (equivalence_p(found, 2.0), beyond_p(found, 0.01), visible(found)) == (None, None, None)


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_equivalence_is_two_one_sided_tests_of_scipy(margin: float) -> None:
    differences = [0.3, -0.4, 0.9, 0.1]
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(4), 0.0))
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert equivalence_p(found, margin) == pytest.approx(max(above, below))
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    assert (equivalence_p(found, margin) < 0.05) == (-margin < low and high < margin)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_visible_difference_is_seen_with_its_chance(n: int) -> None:
    found = Estimate(0.0, None, n, error=1.0, df=n - 1.0)
    critical = stats.t.ppf(0.975, n - 1)
    assert stats.nct.sf(critical, n - 1, visible(found)) == pytest.approx(POWER, abs=1e-6)
    margin = visible_margin(found)
    inside = stats.t.cdf(margin - stats.t.ppf(0.95, n - 1), n - 1)  # of both one-sided tests at no difference
    assert 2 * inside - 1 == pytest.approx(POWER, abs=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
