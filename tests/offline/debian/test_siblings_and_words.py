"""Siblings are those of a plain search of the graph; words of strangers come out as captions, whatever they are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vlm_ablate.errors import DataError
from vlm_ablate.offline.debian.clip_titles import LONGEST_TITLE, clean_description, clean_title
from vlm_ablate.offline.debian.drawing import Drawing, look_at, pool
from vlm_ablate.offline.debian.siblings import ALIKE, groups
from vlm_ablate.offline.debian.words import as_caption, first_sentence, plain
from vlm_ablate.offline.kinds import is_plural, kind_of, kinds, plain_name, with_article
from vlm_ablate.offline.pictures import SPLITS


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(0, 10**6))
def test_groups_are_the_connected_parts_and_go_by_their_first_key(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{i:02d}" for i in range(count)]
    marks = [[f"m{m}" for m in rng.integers(0, 2 * count, rng.integers(0, 3))] for _ in keys]
    faint = rng.random((count, 1)) * 0.4
    thumbs = (128 + faint * rng.integers(-120, 120, (count, 12))).astype(np.float32)
    for i in range(1, count):
        if rng.random() < 0.3:
            thumbs[i] = thumbs[rng.integers(i)] + rng.random(12).astype(np.float32) * 8
        elif rng.random() < 0.5:
            thumbs[i] = 128 + 0.82 * (thumbs[rng.integers(i)] - 128)  # near to what it stands out, not the reverse
    stands_out = [0.2 * float(np.abs(row - 128).mean()) for row in thumbs]
    edges = [
        (i, j)
        for i in range(count)
        for j in range(count)
        if set(marks[i]) & set(marks[j])
        or float(np.abs(thumbs[i] - thumbs[j]).mean()) < min(ALIKE, stands_out[i], stands_out[j])
    ]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    _, part = connected_components(coo_matrix((np.ones(len(edges)), (rows, columns)), (count, count)), directed=False)
    expected = [keys[int(np.flatnonzero(part == p)[0])] for p in part]
    assert groups(keys, marks, thumbs) == expected
    order = rng.permutation(count)
    mixed = groups([keys[i] for i in order], [marks[i] for i in order], thumbs[order])
    together = {
        frozenset(k for k, g in zip([keys[i] for i in order], mixed, strict=True) if g == name) for name in mixed
    }
    assert together == {frozenset(k for k, g in zip(keys, expected, strict=True) if g == name) for name in expected}


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Drawing]:
    """Blocks of colours in margins of all widths."""
    folder, made = tmp_path_factory.mktemp("drawings"), []
    for k in range(24):
        rng = np.random.default_rng(k)
        width, height = rng.integers(20, 90, 2)
        page = Image.new("RGBA", (int(width + rng.integers(0, 60)), int(height + rng.integers(0, 60))))
        block = rng.integers(0, 256, (int(height), int(width), 3), np.uint8)
        corner = [int(rng.integers(0, a - b + 1)) for a, b in zip(page.size, (width, height), strict=True)]
        page.paste(Image.fromarray(block), corner)
        path = folder / f"{k}.png"
        page.save(path)
        look = look_at(path)
        assert look is not None
        made.append(Drawing(f"{k}.png", f"g/{k // 2}", path, look, "", ""))
        box = corner[0] / page.width, corner[1] / page.height
        assert look.box[:2] == pytest.approx(box, abs=1e-3) and look.aspect == pytest.approx(
            page.height / page.width, abs=1e-3
        )
    return made


def test_a_drawing_fills_its_square_one_way_and_is_in_the_middle_the_other(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        box, aspect = drawing.look.box, drawing.look.aspect
        shape = (box[2] - box[0], (box[3] - box[1]) * aspect)
        for size in (16, 33, 64):
            alpha = drawing.raster(size)[..., 3] > 100
            rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
            found = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
            assert found == pytest.approx([side * size / max(shape) for side in shape], abs=2)
            assert max(found) >= size - 1
            assert abs(columns[0] - (size - 1 - columns[-1])) <= 1 and abs(rows[0] - (size - 1 - rows[-1])) <= 1


def test_a_pool_is_the_splits_part_in_an_order_that_no_folder_decides(drawings: list[Drawing]) -> None:
    everything = pool(drawings, None, Path("x"))
    assert pool(random.Random(0).sample(drawings, len(drawings)), None, Path("x")) == everything
    assert {d.key for d in everything} == {d.key for d in drawings} and list(everything) != drawings
    parts = {split: [d for d in everything if d.split == split] for split in SPLITS}
    for split, part in parts.items():
        if part:
            assert list(pool(drawings, split, Path("x"))) == part
        else:
            with pytest.raises(DataError, match=f"of the split {split} under x"):
                pool(drawings, split, Path("x"))
    assert all(a.split == b.split for a in drawings for b in drawings if a.group == b.group)


TITLES = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(
    st.sampled_from(
        [
            "Red_Apple01",
            "Hot Dog",
            "(B and W)",
            "ear -",
            "body part",
            "the",
            "#12",
            "Größe",
            "café",
            "&amp;",
            "A",
            "TV",
            "“x”",
            "LemonHalf",
            "bw",
            "-",
            "owl,",
            "!",
            "svg",
            "gatto",
            "12",
            "o'clock",
        ]
    ),
    max_size=8,
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(TITLES)
@example("AA-a-")
@example("AA--a")
def test_a_title_becomes_a_short_plain_caption_or_nothing(title: str) -> None:
    caption = clean_title(title)
    assert caption.isascii() and caption == caption.lower().strip() and "\n" not in caption and "_" not in caption
    assert not caption.endswith((".", "!", "?", ",", ";", ":")) and "  " not in caption
    words = caption.removesuffix(" in black and white").split()
    assert len(words) <= 2 * LONGEST_TITLE and (not caption or sum(c.isalpha() for c in caption) >= 3)
    said = clean_description(title, "an owl")
    assert said.isascii() and said == as_caption(said) and len(said.split()) <= 16


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("“”‘’—–…\n\t ,.!?é"), max_size=40))
def test_plain_text_is_ascii_on_one_line_and_plain(text: str) -> None:
    found = plain(text)
    assert found.isascii() and "\n" not in found and found == found.strip(" ,")
    assert first_sentence(text) in text and first_sentence(first_sentence(text)) == first_sentence(text)
    assert as_caption(as_caption(text)) == as_caption(text) == as_caption(text).rstrip(" .!?,;:")


def test_every_name_is_of_its_kind_whatever_stands_before_it() -> None:
    known = kinds()
    assert len(known) > 600 and all(name == name.strip().lower() and name for name in known)
    for name, kind in known.items():
        assert kind_of(name) == kind and plain_name(name) == name
        if f"strange {name}" not in known:
            assert kind_of(f"strange {name}") == kind and plain_name(f"strange {name}") == name
        said = with_article(name)
        assert said.partition(" ")[2] == name and said.partition(" ")[0] in ("a", "an", "any")
        assert not (is_plural(name) and name.endswith(("ss", "us")))
    assert kind_of("economy") == plain_name("economy") == plain_name("") == ""
