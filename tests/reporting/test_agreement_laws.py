"""Laws of orders: against scipy, against all orders that are possible, and under turning and exchanging them."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats

from vlm_ablate.reporting.agreement import Order, agreement, compare_order, rank_ranges, ranks

TIMES = 60


def scores(rng: np.random.Generator, arms: int) -> list[float]:
    """Few different values, so that ties come up."""
    return [float(v) for v in rng.integers(0, 6, arms)]


def test_tau_and_ranks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(TIMES):
        arms = int(rng.integers(2, 9))
        first, second = scores(rng, arms), scores(rng, arms)
        reference = stats.kendalltau(first, second).statistic
        found = compare_order(first, second)
        assert (found.tau is None) == math.isnan(reference)
        assert found.tau is None or found.tau == pytest.approx(reference)
        assert ranks(first) == [int(r) for r in stats.rankdata([-v for v in first], method="min")]


def test_pairs_add_up_and_turning_one_order_turns_them() -> None:
    rng = np.random.default_rng(1)
    for _ in range(TIMES):
        arms = int(rng.integers(1, 8))
        first, second = scores(rng, arms), scores(rng, arms)
        pairs = [frozenset(pair) for pair in combinations(range(arms), 2)]
        left_out = {pair for pair in pairs if rng.random() < 0.2}
        found = compare_order(first, second, left_out)
        compared = [sorted(pair) for pair in pairs if pair not in left_out]
        ours_tied = sum(second[i] == second[j] and first[i] != first[j] for i, j in compared)
        assert found.pairs + found.left_out == math.comb(arms, 2) and found.left_out == len(left_out)
        assert found.told == found.concordant + found.discordant + ours_tied == found.pairs - found.tied
        turned = compare_order(first, [-v for v in second], left_out)
        assert (turned.concordant, turned.discordant) == (found.discordant, found.concordant)
        assert turned.told == found.told and (found.tau is None or turned.tau == pytest.approx(-found.tau))
        assert found.same == (found.told > 0 and found.concordant == found.told)
        renamed = rng.permutation(arms)
        place = {int(old): new for new, old in enumerate(renamed)}
        again = compare_order(
            [first[i] for i in renamed], [second[i] for i in renamed],
            {frozenset(place[i] for i in pair) for pair in left_out},
        )  # fmt: skip
        assert again == found


def test_left_out_pairs_count_as_if_they_were_not_there() -> None:
    """Pair by pair: an order is the sum of orders of two arms each."""
    rng = np.random.default_rng(2)
    for _ in range(TIMES):
        arms = int(rng.integers(2, 7))
        first, second = scores(rng, arms), scores(rng, arms)
        pairs = list(combinations(range(arms), 2))
        kept = [pair for pair in pairs if rng.random() < 0.6]
        whole = compare_order(first, second, {frozenset(p) for p in pairs if p not in kept})
        each = [compare_order([first[i], first[j]], [second[i], second[j]]) for i, j in kept]
        for count in ("concordant", "discordant", "tied", "told", "pairs"):
            assert getattr(whole, count) == sum(getattr(order, count) for order in each)


def test_the_ranks_that_an_arm_may_have_are_those_of_all_orders_that_agree_with_what_was_told_apart() -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        arms = "abcde"[: int(rng.integers(1, 6))]
        low = dict(zip(arms, rng.uniform(0, 4, len(arms)), strict=True))
        high = {arm: low[arm] + rng.uniform(0, 3) for arm in arms}
        beats = {(a, b) for a, b in permutations(arms, 2) if low[a] > high[b]}
        possible = [
            order for order in permutations(arms) if all(order.index(a) < order.index(b) for a, b in beats)
        ]  # fmt: skip
        places = {arm: [1 + order.index(arm) for order in possible] for arm in arms}
        assert rank_ranges(arms, beats) == {arm: (min(at), max(at)) for arm, at in places.items()}


def test_ranks_of_some_are_those_among_themselves() -> None:
    rng = np.random.default_rng(4)
    for _ in range(TIMES):
        values = [None if rng.random() < 0.3 else v for v in scores(rng, 6)]
        found = ranks(values)
        present = [v for v in values if v is not None]
        assert [r for r in found if r is not None] == ranks(present)
        assert [r is None for r in found] == [v is None for v in values]


def test_agreement_is_that_of_all_pairs_together() -> None:
    rng = np.random.default_rng(5)
    for _ in range(4):
        orders = [compare_order(scores(rng, n), scores(rng, n)) for n in rng.integers(1, 6, 7)]
        told = [order for order in orders if order.told]
        found = agreement(orders)
        assert (found.tables, found.pairs) == (len(told), sum(order.told for order in told))
        assert found.concordant == sum(order.concordant for order in told)
        net = sum(order.concordant - order.discordant for order in told)
        assert found.tau == pytest.approx(net / found.pairs)
        assert -1 <= found.low <= found.tau <= found.high <= 1
        assert agreement(told) == found, "tables without a pair add nothing"


def test_the_interval_of_agreement_gets_narrower_with_more_tables_and_turns_with_the_orders() -> None:
    some = [Order(3, c, 3 - c, None) for c in (3, 2, 3, 1, 3, 2)]
    few, many = agreement(some), agreement(some * 6)
    assert many.tau == few.tau and many.high - many.low < 0.6 * (few.high - few.low)
    turned = agreement([Order(3, o.discordant, o.concordant, None) for o in some])
    assert turned.tau == -few.tau
    assert (turned.low, turned.high) == pytest.approx((-few.high, -few.low), abs=0.15)
