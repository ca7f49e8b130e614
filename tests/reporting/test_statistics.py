"""The statistics of the table, against scipy.stats and by hand."""

from __future__ import annotations

import pytest
from scipy import stats

from vlm_ablate.reporting.statistics import (
    Difference,
    Verdict,
    compare_order,
    estimate,
    holm,
    judge,
    paired_difference,
    ranks,
    t_quantile,
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
    assert judge(paired_difference(first, second)) is Verdict.agrees
    assert estimate(list(first.values())).low < estimate(list(second.values())).high


def test_no_common_seed_is_not_run() -> None:
    assert paired_difference({0: 1.0}, {1: 2.0}) is None
    assert judge(None) is Verdict.not_run


@pytest.mark.parametrize(
    ("mean", "half", "relation", "verdict"),
    [
        (2.0, 1.0, "better", Verdict.agrees),
        (-2.0, 1.0, "better", Verdict.contradicts),
        (0.5, 1.0, "better", Verdict.not_separable),
        (5.0, None, "better", Verdict.not_separable),
        (0.1, 0.5, "similar", Verdict.agrees),
        (0.1, 1.5, "similar", Verdict.not_separable),
        (3.0, 1.5, "similar", Verdict.contradicts),
        (-3.0, 1.5, "similar", Verdict.contradicts),
        (0.0, None, "similar", Verdict.not_separable),
    ],
)
def test_verdicts(mean: float, half: float | None, relation: str, verdict: Verdict) -> None:
    assert judge(Difference(mean, half, 3 if half else 1), relation, margin=1.0) is verdict


def test_equal_differences_in_all_seeds() -> None:
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.p) == (0.0, 1.0) and judge(same) is Verdict.not_separable
    shifted = paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert shifted.p == 0.0 and judge(shifted) is Verdict.agrees


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([51.8, 60.3, 66.7, 67.3, 69.5], [20.0, 31.0, 29.0, 33.0, 40.0]),
        ([1.0, 2.0, 2.0, 4.0], [4.0, 3.0, 2.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_kendall_is_that_of_scipy(first: list[float], second: list[float]) -> None:
    assert compare_order(first, second).tau == pytest.approx(stats.kendalltau(first, second).statistic)


def test_order_counts_pairs() -> None:
    order = compare_order([51.8, 60.3, 66.7, 67.3, 69.5], [20.0, 31.0, 29.0, 33.0, 40.0])
    assert (order.concordant, order.discordant, order.pairs, order.same) == (9, 1, 10, False)
    assert compare_order([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).same
    assert compare_order([1.0], [1.0]).tau is None


def test_ranks_share_ties_and_skip_missing() -> None:
    assert ranks([3.0, None, 5.0, 3.0, 1.0]) == [2, None, 1, 2, 4]
