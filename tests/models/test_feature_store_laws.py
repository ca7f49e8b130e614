"""Whatever processes do to one store, and whatever happens to its files, a read gives what was written or nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.test_feature_store import a_store, key, value
from vlm_ablate.models import feature_store
from vlm_ablate.models.feature_store import FeatureStore, make_room, store_size
from vlm_ablate.models.features import state_digest, view_key

KEYS = 40


def some_shape(number: int) -> tuple[int, int]:
    return 1 + number % 5, 8 * (1 + number % 7)


def assert_true(store: FeatureStore, rng: np.random.Generator, asked: int = 12) -> set[int]:
    """Every value that a store gives is that of its key; gives the keys that it has."""
    numbers = rng.integers(0, KEYS, asked).tolist()
    found = store.read([key(n) for n in numbers])
    for number, stored in zip(numbers, found, strict=True):
        if stored is not None:
            expected = value(number, *some_shape(number))
            assert stored.kind == expected.kind and np.array_equal(stored.values, expected.values)
    return {number for number, stored in zip(numbers, found, strict=True) if stored is not None}


def add(store: FeatureStore, numbers: list[int]) -> None:
    store.add([(key(n), value(n, *some_shape(n))) for n in numbers])


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_writers_readers_copies_and_harm_gives_true_values(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_LOOK_AGAIN", 0.0)
    rng = np.random.default_rng(seed)
    stores = [a_store(tmp_path, pack=2000) for _ in range(2)]
    for _ in range(60):
        store = stores[rng.integers(len(stores))]
        what = rng.choice(["add", "read", "expect", "copy", "begin", "cut", "flip", "room"],
                          p=[0.3, 0.3, 0.05, 0.1, 0.1, 0.06, 0.06, 0.03])  # fmt: skip
        files = sorted(tmp_path.glob("*/*.*"))
        if what == "add":
            numbers = rng.integers(0, KEYS, rng.integers(1, 6)).tolist()
            add(store, numbers)
        elif what == "expect":
            store.expect([key(n) for n in range(0, KEYS, 7)])
        elif what == "copy":  # as loader processes get it
            stores.append(pickle.loads(pickle.dumps(store)))
        elif what == "begin":
            stores[rng.integers(len(stores))] = a_store(tmp_path, pack=2000)
        elif what == "room":
            make_room(tmp_path, int(rng.integers(0, 4000)))
        elif what in ("cut", "flip") and files and (size := (file := files[rng.integers(len(files))]).stat().st_size):
            # What a killed writer or a bad disk leaves is met by those that begin after it.
            place = int(rng.integers(size))
            if what == "cut":
                os.truncate(file, place)
            else:
                data = bytearray(file.read_bytes())
                data[place] ^= 1 << int(rng.integers(8))
                file.write_bytes(data)
            stores = [a_store(tmp_path, pack=2000) for _ in range(2)]
        assert_true(store if store in stores else stores[0], rng)
    last = a_store(tmp_path, pack=2000)
    found = last.read([key(n) for n in range(KEYS)])
    add(last, [number for number, stored in enumerate(found) if stored is None])
    for store in (last, a_store(tmp_path, pack=2000)):
        assert assert_true(store, rng, 400) == set(range(KEYS)), "what is lost is written again, for everybody"


@pytest.mark.parametrize("seed", range(4))
def test_undisturbed_every_process_has_all_that_any_has_written_once(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_LOOK_AGAIN", 0.0)
    rng, written = np.random.default_rng(seed), set[int]()
    stores = [a_store(tmp_path, pack=1500) for _ in range(3)]
    for _ in range(30):
        numbers = rng.integers(0, KEYS, rng.integers(0, 5)).tolist()
        add(stores[rng.integers(3)], numbers)
        written |= set(numbers)
        for store in stores:
            numbers = list(range(KEYS))
            found = store.read([key(n) for n in numbers])
            assert {n for n, stored in zip(numbers, found, strict=True) if stored is not None} == written
    assert sum(store.counts.written for store in stores) == len(written), "nothing twice"
    whole = sum(np.prod(some_shape(n)) for n in written)
    assert sum(file.stat().st_size for file in tmp_path.glob("*/*.bin")) == whole
    assert store_size(tmp_path).bytes == whole + len(written) * feature_store._ENTRY.size
    assert store_size(tmp_path).encoders == 1


@pytest.mark.parametrize("limit", [3000, 10_000, 40_000])
def test_encoders_together_stay_below_their_limit_but_for_one_value(limit: int, tmp_path: Path) -> None:
    rng, largest = np.random.default_rng(limit), 5 * 56 + feature_store._ENTRY.size
    stores = [FeatureStore(tmp_path, name, limit=limit) for name in ("a", "b", "c")]
    for step in range(250):
        # One at a time begins a pack: those that others still write count as they are.
        store = stores[step * 3 // 250]
        add(store, rng.integers(0, 10**6, 1).tolist())
        per_entry = -(-limit // 4 // 8) * feature_store._ENTRY.size  # a pack's size is that of its values
        assert store_size(tmp_path).bytes <= limit + largest + per_entry
    assert make_room(tmp_path, limit // 2) >= 0 and store_size(tmp_path).bytes <= limit // 2
    assert make_room(tmp_path, limit) == 0, "nothing goes while there is room"


def test_a_view_is_named_by_its_shape_and_every_pixel() -> None:
    view = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    others = [view.reshape(6, 4, 3), view[:, ::-1], view[::-1], view[:3]]
    for place in range(0, view.size, 5):
        changed = view.copy()
        changed.flat[place] ^= 1
        others.append(changed)
    names = {view_key(each) for each in (view, *others)}
    assert len(names) == len(others) + 1 and all(len(name) == 16 for name in names)
    assert view_key(view) == view_key(view.copy()) == view_key(np.asfortranarray(view))


def test_a_digest_of_weights_hangs_on_every_tensor_and_on_nothing_else() -> None:
    def made(**changes: object) -> nn.Module:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        module.load_state_dict({name: tensor + 1 if name in changes else tensor
                                for name, tensor in module.state_dict().items()})  # fmt: skip
        return module

    base = state_digest(made())
    names = list(made().state_dict())
    assert len({base, *(state_digest(made(**{name: 1})) for name in names)}) == len(names) + 1
    module = made()
    assert state_digest(module.requires_grad_(False).eval()) == base == state_digest(made())
    assert state_digest(made().double()) != base, "another type of the same values"
    renamed = nn.Sequential()
    for name, child in zip("xy", made(), strict=True):
        renamed.add_module(name, child)
    assert state_digest(renamed) != base
    assert state_digest(made(**{"0.weight": 1}), leave_out="0.") == state_digest(made(), leave_out="0.") != base
