"""Laws of scores by item: what does not change their part of an interval, and when they are not used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.reporting import report
from vlm_ablate.reporting.hierarchy import item_spread, item_variance, pooled
from vlm_ablate.reporting.items import item_scores, spread_of
from vlm_ablate.tracking.records import RunRecord

Values = np.ndarray[Any, np.dtype[np.float64]]


def scores(seed: int, seeds: int = 3, items: int = 40) -> Values:
    rng = np.random.default_rng(seed)
    hard = rng.uniform(size=items)
    return 100.0 * (rng.uniform(size=(seeds, items)) < hard)


def test_the_order_of_items_and_seeds_and_what_a_seed_does_to_all_items_change_nothing() -> None:
    for seed in range(20):
        values, rng = scores(seed), np.random.default_rng(seed)
        known = item_spread(values)
        moved = values[rng.permutation(3)][:, rng.permutation(40)] + rng.normal(0, 20, (3, 1))
        assert item_spread(moved).variance == pytest.approx(known.variance)
        assert item_spread(-0.01 * values).variance == pytest.approx(1e-4 * known.variance)
        assert (known.df, known.items) == (39.0, 40)


def test_the_three_parts_of_the_spread_are_all_of_it() -> None:
    """The items' part by two-way means: variance of the items' means, less what chance answers give it."""
    for seed in range(20):
        values = scores(seed, seeds=4)
        rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        chance = (rest**2).sum() / (3 * 39) / 4
        expected = max(0.0, values.mean(0).var(ddof=1) - chance) / 40
        assert item_variance(values)[0] == pytest.approx(expected)
        many = np.stack([values, scores(seed + 100, seeds=4)])
        assert item_variance(many)[0] == pytest.approx([item_variance(v)[0] for v in many])


def test_a_benchmark_copied_c_times_has_the_variance_of_a_mean_of_c() -> None:
    known = item_spread(scores(1))
    for copies in (1, 2, 5):
        found = pooled([known] * copies)
        assert found.variance == pytest.approx(known.variance / copies)
        assert (found.items, found.df) == (40 * copies, pytest.approx(39.0 * copies))


def test_spread_of_a_difference_is_that_of_differences_and_has_no_direction() -> None:
    columns = {"a": (30, 0), "b": (50, 10)}
    first, second = ({c: dict(enumerate(scores(s + k, items=n))) for c, (n, s) in columns.items()} for k in (0, 1))
    for column in columns:
        d = np.stack([first[column][s] - second[column][s] for s in range(3)])
        assert (
            spread_of(first, second, column, range(3)) == item_spread(d) == spread_of(second, first, column, range(3))
        )
    whole = spread_of(first, second, "mean", range(3))
    assert whole == pooled([spread_of(first, second, column, range(3)) for column in columns])
    assert spread_of(first, first, "mean", range(3)).variance == 0.0


def test_items_are_not_used_where_a_seed_or_a_column_lacks_them() -> None:
    first = {"a": dict(enumerate(scores(0))), "b": dict(enumerate(scores(1)))}
    assert spread_of(first, None, "mean", range(3)) is not None
    assert spread_of(first, None, "mean", range(4)) is None
    assert spread_of(first, None, "a", []) is None and spread_of(first, None, "c", range(3)) is None
    assert spread_of(first | {"c": {}}, None, "mean", range(3)) is None
    assert spread_of(first, first | {"b": {0: first["b"][0]}}, "mean", range(3)) is None
    shorter = {column: {s: v[:30] for s, v in of.items()} for column, of in first.items()}
    assert spread_of(first, shorter, "a", range(3)) is None
    mixed = {"a": first["a"] | {1: first["a"][1][:30]}}
    assert spread_of(mixed, None, "a", range(3)) is None


@pytest.mark.parametrize(
    ("values", "used"),
    [
        ([1.0, 0.0, 0.5, 0.5], True),
        ([1.0, None, 0.5, 0.5], True),
        ([1.0, 0.0, 0.5], False),
        ([0.5, 0.0, 0.5, 0.5], False),
        ([], False),
        (None, False),
    ],
)
def test_an_answer_that_could_not_be_read_counts_nothing(
    values: list[float | None] | None, used: bool, score_of: Callable[..., dict[str, Any]]
) -> None:
    record = ScoreRecord.from_dict(score_of("vqa", 50.0, items=4))
    found = item_scores(record, values)
    assert (found is not None) == used
    if found is not None and values:
        assert list(found) == [100 * (v or 0.0) for v in values]


def test_a_table_s_intervals_are_those_of_its_seeds_and_items(
    experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]
) -> None:
    """Items in whatever order they stand, as long as it is one order; blind answers have no part in it."""
    asked = {arm: scores(i, seeds=3, items=60) for i, arm in enumerate(("ca", "ar_lora"))}

    def made(order: Any) -> list[RunRecord]:
        return [
            replace(run(arm, seed, scores=[score_of("vqa", float(v.mean()), items=60),
                                           score_of("vqa", 9.0, items=60, blind=True)]),
                    items={"vqa": [float(x) / 100 for x in v[order]]})
            for arm, of in asked.items() for seed, v in enumerate(of)
        ]  # fmt: skip

    plain, mixed = (
        report(experiment, made(order)) for order in (slice(None), np.random.default_rng(0).permutation(60))
    )
    for row, other in zip(plain.rows, mixed.rows, strict=True):
        if row.score() is None:
            continue
        spread = item_spread(asked[row.arm])
        over_seeds = asked[row.arm].mean(1).var(ddof=1) / 3
        assert row.score().error ** 2 == pytest.approx(over_seeds + spread.variance)
        assert row.score().half_width == pytest.approx(other.score().half_width)
        assert row.floor().items == 0
    first, second = (next(r for r in plain.rows if r.arm == arm) for arm in asked)
    d = asked["ca"] - asked["ar_lora"]
    expected = d.mean(1).var(ddof=1) / 3 + item_spread(d).variance
    assert first.minus(second).error ** 2 == pytest.approx(expected)
