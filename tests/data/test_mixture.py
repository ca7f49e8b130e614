"""The order of samples: a pure function of (seed, index), by exact shares, every epoch a permutation."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import Drawn
from vlm_ablate.data.mixture import Mixture, permuted
from vlm_ablate.data.sources.base import STREAM_WINDOW
from vlm_ablate.errors import DataError


def mixture(seed: int = 3, weights: dict[str, float] | None = None, **rows: int) -> Mixture:
    rows = rows or {"a": 50, "b": 7, "c": 1000}
    return Mixture({n: Drawn(n, r) for n, r in rows.items()}, weights or dict.fromkeys(rows, 1.0), seed)


def test_every_position_alone_gives_what_reading_in_order_gives() -> None:
    order = [mixture()[i] for i in range(1000)]
    fresh = mixture()
    assert [fresh[i] for i in reversed(range(1000))][::-1] == order
    assert pickle.loads(pickle.dumps(fresh))[10**12] == mixture()[10**12]
    assert [mixture(seed=4)[i] for i in range(1000)] != order


def test_the_order_of_writing_does_not_matter() -> None:
    one, other = mixture(a=10, b=20), mixture(b=20, a=10)
    assert [one[i] for i in range(100)] == [other[i] for i in range(100)]


def test_shares_are_exact_and_epochs_are_permutations() -> None:
    mixed = mixture(weights={"a": 0.5, "b": 0.01, "c": 0.49})
    drawn = [mixed[i] for i in range(20 * mixed.block)]
    counts = Counter(which for which, _ in drawn)
    for which, share in enumerate(mixed.shares):
        assert abs(counts[which] - share * len(drawn)) < 2
    rows = [row for which, row in drawn if which == 0]
    for epoch in range(len(rows) // 50):
        assert sorted(rows[epoch * 50 : (epoch + 1) * 50]) == list(range(50))
    assert rows[:50] != rows[50:100]


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(1e-4, 1), min_size=1, max_size=6), block=st.integers(0, 10**6))
def test_counts_never_fall_and_fill_each_block(weights: list[float], block: int) -> None:
    names = [f"s{i}" for i in range(len(weights))]
    mixed = mixture(weights=dict(zip(names, weights, strict=True)), **dict.fromkeys(names, 10))
    counts = [mixed._drawn(i, block + 1) - mixed._drawn(i, block) for i in range(len(names))]
    assert min(counts) >= 0 and sum(counts) == mixed.block


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 700), key=st.tuples(st.integers(0, 2**60), st.integers(0, 9)))
def test_permutation_hits_every_row_once(length: int, key: tuple[int, int]) -> None:
    assert sorted(permuted(i, length, key) for i in range(length)) == list(range(length))


def test_permutations_of_four_are_all_about_equally_frequent() -> None:
    seen = Counter(tuple(permuted(i, 4, (seed,)) for i in range(4)) for seed in range(2400))
    assert len(seen) == 24 and min(seen.values()) > 60 and max(seen.values()) < 150


def test_streams_are_shuffled_within_windows() -> None:
    source = Drawn("s", 3 * STREAM_WINDOW + 5)
    source.sequential = True
    mixed = Mixture({"s": source}, {"s": 1.0}, 0)
    rows = [mixed[i][1] for i in range(len(source))]
    assert sorted(rows) == list(range(len(source))) and rows != sorted(rows)
    assert all(row // STREAM_WINDOW == i // STREAM_WINDOW for i, row in enumerate(rows))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive(weight: float) -> None:
    with pytest.raises(DataError, match="'a' has weight"):
        mixture(weights={"a": weight}, a=5)


@pytest.mark.parametrize(("weights", "named"), [((1.0, 1e-9), "'b'"), ((1e-320, 1.0), "'a'"), ((1.0, 1e300), "'a'")])
def test_a_source_that_would_never_be_drawn_is_named_before_its_order_fills_the_memory(
    weights: tuple[float, float], named: str
) -> None:
    with pytest.raises(DataError, match=f"source {named} would be one in"):
        mixture(weights=dict(zip("ab", weights, strict=True)), a=5, b=5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_beginning_has_each_source_by_its_share_whatever_scale_weights_have(data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.02, 1), min_size=1, max_size=5))
    names = [f"s{i}" for i in range(len(weights))]
    rows = dict.fromkeys(names, 10**6)
    mixed = mixture(weights=dict(zip(names, weights, strict=True)), **rows)
    scaled = mixture(weights={name: 8 * weight for name, weight in zip(names, weights, strict=True)}, **rows)
    for index in range(0, 3000, 97):
        assert mixed[index] == scaled[index]
    block = data.draw(st.integers(0, 10**7))
    for which, share in enumerate(mixed.shares):
        exact = share * block * mixed.block
        assert abs(mixed._drawn(which, block) - exact) < 2 + exact * 2**-36


def test_empty_sources_are_named() -> None:
    with pytest.raises(DataError, match="'a' is empty"):
        mixture(a=0)
    with pytest.raises(DataError, match="no source"):
        Mixture({}, {}, 0)
