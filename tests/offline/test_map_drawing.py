"""What a window on a map shows, and where names may be written on it: worked out again pixel by pixel."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn_maps import world
from vlm_ablate.offline.canvas import COLOURS
from vlm_ablate.offline.debian.maps import OUTSIDE, WATER, drawn_maps, geometry
from vlm_ablate.offline.map_pictures import BRIGHT, View, can_be_written, draw_map, place_labels, title_font
from vlm_ablate.offline.map_questions import PLACES, place_of
from vlm_ablate.offline.map_views import askable, names_of, seen_whole, window_around


@pytest.fixture(autouse=True)
def lands(place: Place) -> None:
    """Maps of grids of regions."""
    place("kgeography-data", world(4))


def views(count: int, size: int | None = None, strips: tuple[int, ...] = (0, 14)) -> Iterator[tuple[View, list[int]]]:
    """Windows around some regions of a map."""
    rng, pool = random.Random(0), drawn_maps("train")
    for _ in range(count):
        region_map, side = rng.choice(pool), size or rng.choice((64, 128, 200))
        chosen = rng.sample(askable(region_map), rng.randint(1, 3))
        yield window_around(rng, region_map, chosen, side, rng.choice(strips)), chosen


def test_a_pixel_shows_the_region_at_its_middle_and_nothing_beyond_the_map() -> None:
    for view, chosen in views(12):
        labels = geometry(view.region_map).labels
        rng = random.Random(view.size)
        for _ in range(60):
            x, y = rng.randrange(view.size), rng.randrange(view.size)
            column = math.floor(view.left + (x + 0.5) * view.side / view.size)
            row = math.floor(view.top + (y - view.strip + 0.5) * view.side / view.size)
            inside = 0 <= row < labels.shape[0] and 0 <= column < labels.shape[1] and y >= view.strip
            assert view.seen[y, x] == (labels[row, column] if inside else OUTSIDE)
        for k in chosen:
            rows, columns = np.nonzero(view.seen == k)
            patch = view.patch(k)
            assert patch is not None and patch.area == len(rows)
            assert patch.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert patch.centroid == pytest.approx((columns.mean(), rows.mean()))
            assert rows[columns == patch.box[0]].mean() == patch.tips[0]
            assert columns[rows == patch.box[3] - 1].mean() == patch.tips[3]
        assert view.patch(len(view.region_map.regions) + 3) is None


def test_a_window_around_regions_shows_them_whole_and_stays_on_the_map_where_it_can() -> None:
    for view, chosen in views(60):
        g, scale = geometry(view.region_map), view.size / view.side
        for k in chosen:
            left, top, right, bottom = g.shape(k).box
            assert view.left <= left and right <= view.left + view.side
            assert view.top <= top and bottom <= view.top + view.side * (1 - view.strip / view.size) + 1e-9
            patch = view.patch(k)
            assert patch is not None and patch.area == pytest.approx(g.shape(k).area * scale**2, rel=0.25)
        width = g.labels.shape[1]
        if view.side < width:
            assert view.left >= 0 and view.left + view.side <= width + 1e-9
        seen = seen_whole(view, chosen)
        least = max(60, 0.006 * view.size**2)
        assert seen is None or all(patch.area >= least for patch in seen.values())
        assert (seen is None) == any(
            view.patch(k).area < least
            or min(view.patch(k).box[2] - view.patch(k).box[0], view.patch(k).box[3] - view.patch(k).box[1])
            < 0.05 * view.size
            for k in chosen
        )


def test_a_name_is_written_where_it_hides_little_and_belongs_to_one_region_alone() -> None:
    placed = 0
    for number, (view, chosen) in enumerate(views(60)):
        labels = place_labels(view, names_of(view, chosen), random.Random(number), set(chosen))
        if labels is None:
            continue
        assert sorted(label.text for label in labels) == sorted(names_of(view, chosen).values())
        boards = np.zeros((view.size, view.size), int)
        for label in labels:
            left, top, right, bottom = label.plate
            assert 1 <= left < right <= view.size - 1 and view.strip + 1 <= top < bottom <= view.size - 1
            boards[top - 1 : bottom + 1, left - 1 : right + 1] += 1
            (k,) = (k for k, name in names_of(view, chosen).items() if name == label.text)
            under = view.seen[top:bottom, left:right]
            assert (under == k).any() and not np.isin(under, [other for other in chosen if other != k]).any()
            free = (view.seen == k).sum() - (under == k).sum()
            assert free >= 0.55 * (view.seen == k).sum() and free >= 45
            if (under == k).mean() < 0.5:
                near = view.seen[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4]
                assert not np.isin(near, [other for other in chosen if other != k]).any()
            placed += 1
        assert boards.max() == 1 or len(labels) > 1
        inner = [label.plate for label in labels]
        for i, (a, b, c, d) in enumerate(inner):
            assert all(a >= r + 1 or l - 1 >= c or b >= u + 1 or t - 1 >= d for l, t, r, u in inner[:i])  # noqa: E741
    assert placed > 40


def test_a_region_that_is_asked_about_is_bright_and_all_others_are_grey() -> None:
    for number, (view, chosen) in enumerate(views(12, strips=(0,))):
        colours = dict(zip(chosen, BRIGHT[number % 3 :], strict=False))
        canvas = draw_map(view, colours, random.Random(number))
        pixels = canvas.pixels().astype(int)
        assert [r.text for r in canvas.regions] == [f"{name} region" for name in colours.values()]
        for k in {int(v) for v in np.unique(view.seen)} - {OUTSIDE, WATER}:
            rows, columns = np.nonzero(view.seen == k)
            shade = np.median(pixels[rows, columns], axis=0)
            if k in colours:
                assert np.abs(shade - COLOURS[colours[k]]).max() <= 8
            elif len(rows) > 40:
                assert np.ptp(shade) < 15, "land that is not asked about has no colour"


def test_ninths_of_a_picture_are_named_row_by_row() -> None:
    for size in (64, 100, 128):
        for row in range(3):
            for column in range(3):
                x, y = (size * (k + share) / 3 for k, share in ((column, 0.5), (row, 0.1)))
                assert place_of((x, y), size) == PLACES[3 * row + column]
                words = place_of((x, y), size).split()
                assert ("top" in words) == (row == 0) and ("left" in words) == (column == 0)
        assert place_of((size, size), size) == "bottom right" and place_of((0, 0), size) == "top left"


def test_a_title_fits_or_is_not_written() -> None:
    rng = random.Random(0)
    for size in (64, 128, 256):
        for length in range(1, 60, 4):
            text = "W" * length
            face = title_font(text, size, rng)
            assert face is None or face.getlength(text) <= size - 4
            assert not can_be_written(text, size) or can_be_written(text[1:] or "i", size)
            assert face is not None or not can_be_written(text, size)
