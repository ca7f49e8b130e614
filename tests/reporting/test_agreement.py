"""Orders of arms: Kendall's tau, ranks as far as arms can be told apart, and agreement over many tables."""

from __future__ import annotations

import pytest
from scipy import stats

from vlm_ablate.reporting.agreement import Order, agreement, compare_order, rank_ranges, ranks


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


def test_pairs_left_out_are_not_counted() -> None:
    order = compare_order([1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [frozenset((1, 0))])
    assert (order.concordant, order.discordant, order.pairs, order.left_out, order.same) == (2, 0, 2, 1, True)
    assert order.tau == 1.0
    nothing = compare_order([1.0, 2.0], [1.0, 2.0], [frozenset((0, 1))])
    assert (nothing.pairs, nothing.same, nothing.tau) == (0, False, None)
    assert agreement([nothing]) is None


def test_pairs_that_are_called_alike_are_ties() -> None:
    order = compare_order([1.0, 2.0, 3.0], [2.0, 1.0, 3.0], alike=[frozenset((1, 0))])
    assert (order.concordant, order.discordant, order.tied, order.told, order.same) == (2, 0, 1, 2, True)
    assert order.tau == pytest.approx(stats.kendalltau([1.0, 1.0, 3.0], [2.0, 1.0, 3.0]).statistic)


def test_ranks_share_ties_and_skip_missing() -> None:
    assert ranks([3.0, None, 5.0, 3.0, 1.0]) == [2, None, 1, 2, 4]


def test_arms_that_cannot_be_told_apart_share_their_ranks() -> None:
    assert rank_ranges("abcd", set()) == dict.fromkeys("abcd", (1, 4))
    beats = {("a", "c"), ("a", "d"), ("b", "d")}
    assert rank_ranges("abcd", beats) == {"a": (1, 2), "b": (1, 3), "c": (2, 4), "d": (3, 4)}
    order = {(x, y) for x in "abcd" for y in "abcd" if x < y}
    assert rank_ranges("abcd", order) == {arm: (i, i) for i, arm in enumerate("abcd", 1)}


def test_agreement_pools_the_pairs_of_all_tables() -> None:
    found = agreement([compare_order([1, 2, 3], [1, 2, 3]), compare_order([1, 2], [2, 1]), compare_order([1], [5])])
    assert (found.tables, found.concordant, found.pairs, found.tau) == (2, 3, 4, 0.5)
    assert found.low <= found.tau <= found.high


def test_pairs_that_the_paper_does_not_tell_apart_do_not_count() -> None:
    assert agreement([compare_order([1, 1], [3, 4])]) is None
    assert agreement([compare_order([1, 1, 2], [3, 4, 5])]).pairs == 2


def test_tables_that_agree_alike_and_one_table() -> None:
    alike = agreement([Order(3, 3, 0, 1.0)] * 4)
    assert (alike.tau, alike.low, alike.high) == (1.0, 1.0, 1.0)
    one = agreement([Order(3, 2, 1, 1 / 3)])
    assert (one.low, one.high) == (None, None)


def test_the_interval_is_the_same_each_time() -> None:
    orders = [Order(3, n, 3 - n, 0.0) for n in (0, 1, 2, 3, 3, 2)]
    assert agreement(orders) == agreement(orders)
