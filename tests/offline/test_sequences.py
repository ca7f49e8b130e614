"""Items on disk and items that are made as they are asked for are the same sequences; damage is found, and mended."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.offline.pictures import SPLITS
from vlm_ablate.offline.sealed import CheckedImages, Damaged, checksum, sealed, unsealed
from vlm_ablate.offline.store import ItemStore, item_store, items, store_folder
from vlm_ablate.offline.tasks import TASKS


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def both(offline_material: None, own_home: Path) -> tuple[ItemStore, ItemStore]:
    """The items of one task before and after they are kept."""
    made = items("captions", "tune", 70, 32)
    return made, item_store("captions", "tune", 70, 32)


def test_both_end_where_their_items_end(both: tuple[ItemStore, ItemStore]) -> None:
    made, kept = both
    for store in both:
        assert len(store.images) == len(store.rows) == 70
        assert len(list(islice(store.rows, 71))) == len(list(islice(store.images, 71))) == 70
        for place in (70, -71, 10**9):
            for sequence in (store.rows, store.images):
                with pytest.raises(IndexError):
                    sequence[place]
    for a, b in zip(made.rows, kept.rows, strict=True):
        assert a == {key: b[key] for key in a}
    assert all(np.array_equal(a, b) for a, b in zip(made.images, kept.images, strict=True))


def test_a_place_counted_from_the_end_is_that_place(both: tuple[ItemStore, ItemStore]) -> None:
    for store in both:
        for place in (0, 5, 69):
            assert store.rows[place - 70]["id"] == store.rows[place]["id"] == f"caption/tune/{place}"
            assert np.array_equal(store.images[place - 70], TASKS["captions"]("tune", place, 32).image)
    assert both[0].rows[3] in both[0].rows and both[0].rows[0] is not both[1].rows[0]


@pytest.mark.usefixtures("offline_material", "own_home")
def test_stores_of_unlike_content_have_unlike_names() -> None:
    asked = list(product(list(TASKS)[:5], SPLITS, (1, 12, 121), (32, 64)))
    assert len({store_folder(*arguments).name for arguments in asked}) == len(asked)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.data())
def test_only_damaged_pictures_are_drawn_again_once_each_under_their_own_number(
    count: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(count)
    whole = rng.integers(0, 256, (count, 4, 5, 3), np.uint8)
    damaged = data.draw(st.sets(st.integers(0, count - 1)))
    asked = data.draw(st.lists(st.integers(-count, count - 1), max_size=12))
    found = whole.copy()
    for index in damaged:
        found[index, 3, index % 5, 1] ^= 1 << index % 8
    drawn: list[int] = []
    images = CheckedImages(found, [checksum(image) for image in whole], lambda i: drawn.append(i) or whole[i])
    for index in asked:
        assert np.array_equal(images[index], whole[index])
    assert drawn == list(dict.fromkeys(i % count for i in asked if i % count in damaged))
    cut = data.draw(st.slices(count))
    assert np.array_equal(np.array(images[cut]).reshape(-1, 4, 5, 3), whole[cut])
    assert len(drawn) == len(set(drawn)) and set(drawn) <= damaged


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\n"), max_size=60) | st.just("a sha256 b\nsha256 \n")


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_what_is_sealed_comes_back(text: str) -> None:
    assert unsealed(sealed(text).encode()) == text
    assert unsealed(sealed(sealed(text)).encode()) == sealed(text)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(["changed", "cut", "lost", "added"]))
def test_no_byte_of_what_is_sealed_changes_unseen(text: str, place: int, other: int, how: str) -> None:
    data = bytearray(sealed(text).encode())
    place %= len(data)
    if how == "changed":
        data[place] ^= other
    elif how == "cut":
        del data[place:]
    elif how == "lost":
        del data[place]
    else:
        data.insert(place, other)
    if bytes(data) == sealed(text).encode():  # a byte like its neighbour
        return
    with pytest.raises(Damaged, match="checksum"):
        unsealed(bytes(data))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 32 * 4 * 4 * 3 - 1), st.integers(1, 2**32 - 1))
def test_up_to_32_wrong_bits_in_a_row_change_the_checksum(bit: int, wrong: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 4, 3), np.uint8)
    bits = np.unpackbits(image.ravel())
    pattern = np.array([wrong >> k & 1 for k in range(32)], np.uint8)[: len(bits) - bit % len(bits)]
    bits[bit % len(bits) :][: len(pattern)] ^= pattern
    changed = np.packbits(bits).reshape(image.shape)
    assert np.array_equal(changed, image) == (checksum(changed) == checksum(image))
    assert checksum(np.asfortranarray(image)) == checksum(image), "the picture's, not its memory's"
