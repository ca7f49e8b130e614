"""Laws of intervals, paired tests, power and Holm's correction, over random samples and against scipy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy import stats

from vlm_ablate.reporting.hierarchy import ItemSpread
from vlm_ablate.reporting.statistics import (
    Difference,
    Estimate,
    beyond_p,
    equivalence_p,
    estimate,
    holm,
    p_value,
    paired_difference,
    visible,
    visible_margin,
)

TIMES = 40


def samples(seed: int) -> Iterator[tuple[np.random.Generator, dict[int, float], dict[int, float]]]:
    """Two arms with scores of 2 to 8 common seeds, some of them far apart, some alike."""
    rng = np.random.default_rng(seed)
    for _ in range(TIMES):
        n = int(rng.integers(2, 9))
        common = rng.normal(0, 5, n)
        first, second = (50 + common + rng.normal(rng.uniform(-2, 2), rng.uniform(0.1, 2), n) for _ in range(2))
        names = [int(s) for s in rng.choice(100, n, replace=False)]
        yield rng, dict(zip(names, map(float, first), strict=True)), dict(zip(names, map(float, second), strict=True))


def spread_for(rng: np.random.Generator) -> ItemSpread:
    items = int(rng.integers(10, 500))
    return ItemSpread(float(rng.uniform(0, 2)), items - 1.0, items)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_interval_and_p_value_are_those_of_scipy_at_any_level(confidence: float) -> None:
    for _, first, second in samples(1):
        found = paired_difference(first, second, confidence=confidence)
        reference = stats.ttest_rel(list(first.values()), list(second.values()))
        ends = reference.confidence_interval(confidence)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
        assert found.p == pytest.approx(reference.pvalue)


def test_a_difference_the_other_way_round_is_the_same_with_its_sign_turned() -> None:
    for rng, first, second in samples(2):
        items = spread_for(rng)
        one, other = paired_difference(first, second, items), paired_difference(second, first, items)
        assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))
        assert (one.p, one.df, one.n, one.items) == (pytest.approx(other.p), other.df, other.n, other.items)


def test_what_a_seed_does_to_both_arms_and_seeds_of_one_arm_change_nothing() -> None:
    for rng, first, second in samples(3):
        before = paired_difference(first, second)
        moved = {seed: float(rng.normal(0, 30)) for seed in first}
        both = [{seed: arm[seed] + moved[seed] for seed in reversed(arm)} for arm in (first, second)]
        after = paired_difference(both[0] | {200: 1.0}, both[1] | {201: 99.0, 202: 0.0})
        assert (after.mean, after.half_width, after.n) == pytest.approx((before.mean, before.half_width, before.n))
        assert after.p == pytest.approx(before.p, rel=1e-6)


def test_in_other_units_an_interval_is_in_these_units_and_the_test_says_the_same() -> None:
    for _, first, second in samples(4):
        unit = 0.01
        plain = paired_difference(first, second)
        scaled = paired_difference(*({s: v * unit for s, v in arm.items()} for arm in (first, second)))
        told = [(d.mean, d.half_width, visible(d), visible_margin(d)) for d in (plain, scaled)]
        assert told[1] == pytest.approx(tuple(unit * value for value in told[0]))
        assert (scaled.p, equivalence_p(scaled, unit)) == pytest.approx((plain.p, equivalence_p(plain, 1.0)))


def test_each_test_settles_what_its_interval_shows() -> None:
    """Also where seeds and items share the spread, and degrees of freedom are no whole number."""
    settled = set()
    for rng, first, second in samples(5):
        items = spread_for(rng) if rng.random() < 0.7 else None
        found = paired_difference(first, second, items)
        narrow = paired_difference(first, second, items, confidence=0.9)
        by_hand = Estimate(found.mean, None, found.n, found.error, found.df)
        outside = found.low > 0 or found.high < 0
        assert (found.p < 0.05) == outside and p_value(by_hand) == found.p
        for margin in (0.2, 1.0, 3.0):
            # Degrees of freedom are those at the level asked for, so the test of likeness has its own.
            level = stats.t.ppf(0.95, found.df) * found.error
            alike, beyond = equivalence_p(found, margin) < 0.05, beyond_p(found, margin) < 0.05
            assert alike == (found.mean - level > -margin and found.mean + level < margin)
            assert beyond == (found.low > margin or found.high < -margin)
            assert not (alike and beyond)
            settled |= {("outside", bool(outside)), ("alike", bool(alike)), ("beyond", bool(beyond))}
        assert narrow.half_width < found.half_width
    assert len(settled) == 6, "each answer came up"


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_items_do_not_stand_for_the_spread_of_seeds_that_was_not_seen(seeds: int) -> None:
    """Half a point with each seed is what coarse scores give by chance; with 400 items it would seem settled."""
    second = {seed: 40.0 + 7.5 * seed for seed in range(seeds)}
    found = paired_difference({seed: v + 0.5 for seed, v in second.items()}, second, ItemSpread(0.01, 399.0, 400))
    assert (found.mean, found.n, found.half_width, found.p) == (0.5, seeds, None, None)
    assert equivalence_p(found, 1.0) is None and visible(found) is None


def test_a_wider_margin_is_easier_to_stay_within_and_harder_to_leave() -> None:
    margins = [0.01, 0.1, 0.5, 1.0, 2.0, 8.0]
    for _, first, second in samples(6):
        found = paired_difference(first, second)
        alike = [equivalence_p(found, margin) for margin in margins]
        beyond = [beyond_p(found, margin) for margin in margins]
        assert alike == sorted(alike, reverse=True) and beyond == sorted(beyond)
        assert beyond_p(found, 1e-9) == pytest.approx(found.p, abs=1e-6)
        assert all(0 <= p <= 1 for p in (*alike, *beyond))


def test_uncertain_items_widen_an_interval_of_many_seeds_and_never_move_its_middle() -> None:
    for _, first, second in samples(7):
        plain = paired_difference(first, second)
        wider = [paired_difference(first, second, ItemSpread(v, 399.0, 400)) for v in (0.0, 0.5, 5.0, 50.0)]
        assert {d.mean for d in wider} == {plain.mean} and {d.items for d in wider} == {400}
        assert wider[0].half_width == plain.half_width
        errors = [d.error for d in wider]
        assert errors == sorted(errors) and errors[-1] ** 2 == pytest.approx(plain.error**2 + 50.0)
        # Items bring degrees of freedom, and never more than they have.
        degrees = [d.df for d in wider]
        assert degrees == sorted(degrees) and plain.df == degrees[0] and degrees[-1] <= 399.0 + 1e-6


@pytest.mark.parametrize("df", [1.0, 1.4, 2.0, 3.7, 9.0, 57.3, 399.0, 20_000.0])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_a_difference_called_visible_is_seen_so_often(df: float, power: float) -> None:
    found = Difference(0.0, None, 3, error=0.7, df=df)
    seen = visible(found, power)
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, seen / 0.7) == pytest.approx(power, abs=1e-5)
    assert visible(found, power - 0.1) < seen < visible(found, power + 0.02)
    half = stats.t.ppf(0.975, df) * 0.7
    assert (seen > half) or power == 0.5, "what only just leaves zero out is seen every second time"
    assert visible_margin(found, power - 0.1) < visible_margin(found, power)


def closed_testing(p_values: list[float]) -> list[float]:
    """Holm's method by its definition: the worst Bonferroni test of any set of hypotheses that this one is in."""
    all_sets = [s for size in range(1, len(p_values) + 1) for s in combinations(range(len(p_values)), size)]
    return [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in all_sets if i in s) for i in range(len(p_values))
    ]


def test_holm_is_bonferroni_over_all_sets_of_hypotheses() -> None:
    rng = np.random.default_rng(8)
    for _ in range(60):
        p = [float(v) for v in rng.uniform(0, 0.3, rng.integers(1, 8))]
        p += [p[0]] * int(rng.integers(0, 2))  # ties
        assert holm(p) == pytest.approx(closed_testing(p))


def test_holm_does_not_depend_on_the_order_and_one_more_test_lowers_none() -> None:
    rng = np.random.default_rng(9)
    for _ in range(60):
        p = [float(v) for v in rng.uniform(0, 0.2, rng.integers(1, 12))]
        adjusted, order = holm(p), rng.permutation(len(p))
        assert holm([p[i] for i in order]) == [adjusted[i] for i in order]
        assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
        by_size = [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)]
        assert all(a <= b for a, b in pairwise(by_size))
        more = holm([*p, float(rng.uniform())])
        assert all(a <= b for a, b in zip(adjusted, more, strict=False))


def test_of_tables_without_any_difference_one_in_twenty_has_a_false_verdict() -> None:
    rng = np.random.default_rng(10)
    tables = rng.normal(size=(3000, 6, 3))
    mean, error = tables.mean(-1), tables.std(-1, ddof=1) / np.sqrt(3)
    p = 2 * stats.t.sf(np.abs(mean / error), 2)
    wrong = np.mean([min(holm(list(row))) < 0.05 for row in p])
    assert 0.035 < wrong < 0.062


@pytest.mark.parametrize("values", [[], [7.0]])
def test_without_two_seeds_nothing_is_tested(values: list[float]) -> None:
    first, second = dict(enumerate(values)), {s: v - 1 for s, v in enumerate(values)}
    found = paired_difference(first, second, ItemSpread(3.0, 99.0, 100))
    assert (found is None) == (not values) == (estimate(values) is None)
    if found is not None:
        assert (found.mean, found.half_width, found.low, found.high, found.p) == (1.0, None, None, None, None)
        told = (p_value(found), equivalence_p(found, 1.0), beyond_p(found, 1.0), visible(found), visible_margin(found))
        assert told == (None,) * 5
