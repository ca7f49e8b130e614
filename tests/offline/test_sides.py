"""Pictures at every side that a configuration allows: each task draws, and what is asked for is not cut off."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vlm_ablate.offline.canvas import COLOURS, GRID, Canvas, any_font, fitting_font, grid_square, ink_on, spaced_word
from vlm_ablate.offline.configs import OfflinePagesConfig, OfflineReadingConfig, OfflineSourceConfig
from vlm_ablate.offline.tasks import TASKS

OF_PIP = [name for name, task in TASKS.items() if not task.collections]
LEAST = {"reading": 56, "wide_reading": 56, "pages": 64}

seeds = st.integers(0, 10**6)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(0, 90),
    st.integers(GRID, 200),
    st.integers(GRID, 200),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=3),
    seeds,
)
def test_a_square_lies_in_its_box_on_the_grid(
    left: int, top: int, width: int, height: int, shares: list[float], seed: int
) -> None:
    x, y, side = grid_square(random.Random(seed), (left, top, width, height), tuple(shares))
    assert left <= x and top <= y and x + side <= left + width and y + side <= top + height
    assert (x - left) % GRID == (y - top) % GRID == side % GRID == 0 < side
    assert min(abs(side - share * min(width, height)) for share in shares) < GRID, "no other share than was asked for"


@pytest.mark.usefixtures("offline_material")
@pytest.mark.parametrize("task", [name for name in OF_PIP if not name.startswith("wide_")])
def test_every_task_draws_at_every_side_and_its_answers_are_not_cut_off(task: str) -> None:
    rng = random.Random(task)
    for side in (LEAST.get(task, 32), *rng.sample(range(LEAST.get(task, 32), 200), 18)):
        split, index = rng.choice(("train", "tune", "report")), rng.randrange(1000)
        item = TASKS[task](split, index, side)
        assert item.image.shape == ((2 if task == "pages" else 1) * side, side, 3) and item.image.dtype == np.uint8
        for region in item.regions:
            left, top, right, bottom = region.box
            assert 0 <= left < right and 0 <= top < bottom, (side, region)
            if item.answer in (region.text, *item.question.split()) or region.text.isdigit():
                most = item.image.shape[1] + 2  # a letter's bearing is of its box
                assert right <= most and bottom <= len(item.image), (side, region)


@pytest.mark.parametrize(("task", "least"), LEAST.items())
def test_a_side_at_which_answers_would_be_cut_off_is_refused_and_named(task: str, least: int) -> None:
    config = OfflinePagesConfig if task == "pages" else OfflineReadingConfig
    for made in (config, OfflineSourceConfig):
        assert made(tasks={task: 1}, side=least).side == least
        with pytest.raises(
            ValidationError, match=rf"(?s)side.*cut off what {task} ask.*at least {least} are"
        ) as caught:
            made(tasks={task: 1, "vqa": 1}, side=least - 1)
        assert caught.value.errors()[0]["loc"] == ("side",)
        assert made(tasks={task: 0, "vqa": 1}, side=32).side == 32


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(COLOURS)), st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8), seeds)
def test_the_box_of_a_word_is_where_its_ink_is(ground: str, word: str, seed: int) -> None:
    rng = random.Random(seed)
    canvas = Canvas(96, 64, COLOURS[ground], rng)
    paper = canvas.pixels().copy()
    spaced_word(canvas, word, (0, 0, 96, 64), ink_on(COLOURS[ground]))
    (region,) = canvas.regions
    left, top, right, bottom = region.box
    assert region.text == word and (right - left, bottom - top) == (GRID * len(word), 2 * GRID)
    changed = np.abs(canvas.pixels().astype(int) - paper).max(-1) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert top <= rows[0] and rows[-1] < bottom and left - 2 <= columns[0] and columns[-1] < right + 2
    for k in range(len(word)):
        assert changed[:, left + k * GRID : left + (k + 1) * GRID].any(), "every letter is seen in its own cell"


@settings(max_examples=40, deadline=None)
@given(
    st.text("ABCabcgjy 0123456789", min_size=1, max_size=9).filter(lambda t: t.strip() == t), st.integers(7, 20), seeds
)
def test_a_number_has_a_box_for_each_digit_in_its_order_and_a_word_has_one(text: str, size: int, seed: int) -> None:
    rng = random.Random(seed)
    canvas = Canvas(160, 40, (255, 255, 255), rng)
    canvas.text(text, 5, 6, any_font(rng, size), (0, 0, 0))
    assert [region.text for region in canvas.regions] == (list(text) if text.isdigit() else [text])
    lefts = [region.box[0] for region in canvas.regions]
    assert lefts == sorted(lefts)
    ink = canvas.pixels().max(-1) < 140
    for left, top, right, bottom in (region.box for region in canvas.regions):
        assert ink[top:bottom, left:right].any()
        ink[top:bottom, left:right] = False
    assert not ink.any(), "no ink is outside of the boxes"


@settings(max_examples=25, deadline=None)
@given(st.text("abcdefgh WM", min_size=1, max_size=24), st.integers(20, 120), st.integers(9, 16), seeds)
def test_a_face_is_the_largest_that_fits_and_the_least_where_none_does(
    text: str, width: int, largest: int, seed: int
) -> None:
    face = fitting_font(random.Random(seed), text, width, largest)
    assert 8 <= face.size <= largest
    if face.size > 8:
        assert face.getlength(text) <= width
    if 8 < face.size < largest:
        assert face.font_variant(size=face.size + 1).getlength(text) > width


@pytest.mark.parametrize("name", COLOURS)
def test_ink_is_told_from_its_ground_whatever_the_shade(name: str) -> None:
    luminance = np.array([0.2126, 0.7152, 0.0722])
    for shade in (-10, 0, 10):
        ground = np.clip(np.array(COLOURS[name]) + shade, 0, 255)
        chosen = abs(float(luminance @ (ground - np.array(ink_on(COLOURS[name])))))
        assert chosen > 60, shade
