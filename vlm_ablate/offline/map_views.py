"""Which regions of which map a question is about: a random few, near each other, large enough to be seen and named."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import lru_cache

from vlm_ablate.offline.debian.map_names import DRAWN_ELSEWHERE
from vlm_ablate.offline.debian.maps import RegionMap, drawn_maps, geometry, held_back
from vlm_ablate.offline.map_pictures import BRIGHT, Label, Patch, View, can_be_written, place_labels
from vlm_ablate.offline.pictures import Split

TRIES = 40
"""Random choices of regions before a kind of question is given up."""
_LEAST_AREA, _LEAST_PIXELS, _LEAST_SIDE = 0.006, 60, 0.05
"""A region is asked about only where it covers this share of the picture, so many pixels, and this share of the
picture's side both ways."""
_HANGS_TOGETHER = 0.6
"""Share of a region that is one piece."""


@lru_cache(maxsize=160)
def askable(region_map: RegionMap) -> tuple[int, ...]:
    """Numbers of the regions that are asked about.

    They hang together by and large, are drawn where they are, share their name with no other region of the map, and
    are not left to another split's map.
    """
    names = [region.name for region in region_map.regions]
    never = DRAWN_ELSEWHERE.get(region_map.area, frozenset()) | held_back(region_map)
    shapes = geometry(region_map).shapes
    return tuple(
        k for k, (name, shape) in enumerate(zip(names, shapes, strict=True))
        if shape and shape.area >= 30 and shape.largest_piece >= _HANGS_TOGETHER
        and name not in never and names.count(name) == 1
    )


@lru_cache(maxsize=320)
def _nameable(region_map: RegionMap, size: int) -> tuple[int, ...]:
    """Numbers of the regions whose names a picture is wide enough for."""
    return tuple(k for k in askable(region_map) if can_be_written(region_map.regions[k].name, size))


def _neighbours(rng: random.Random, region_map: RegionMap, pool: tuple[int, ...], count: int) -> list[int]:
    """A random region of `pool` and others near it, none of them ten times as large as the first."""
    shape = geometry(region_map).shape
    if len(pool) < count:
        return []
    first = rng.choice(pool)
    x, y = shape(first).centroid
    alike = [k for k in pool if k != first and 0.1 < shape(k).area / shape(first).area < 10]
    alike.sort(key=lambda k: (shape(k).centroid[0] - x) ** 2 + (shape(k).centroid[1] - y) ** 2)
    near = alike[: 4 * count]
    return [first, *rng.sample(near, count - 1)] if len(near) >= count - 1 else []


def window_around(rng: random.Random, region_map: RegionMap, chosen: list[int], size: int, strip: int = 0) -> View:
    """A window that shows the regions whole, and up to as much again around them; inside the map where it can be."""
    g = geometry(region_map)
    boxes = [g.shape(k).box for k in chosen]
    left, top, right, bottom = (f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max)))
    # The title hides the window's lower end.
    shown = 1 - strip / size
    tight = max(right - left, (bottom - top) / shown, 0.35 * size)
    height, width = g.labels.shape
    side = min(tight * rng.uniform(1.12, 2.0), max(1.12 * tight, 1.05 * max(height, width)))
    corner = []
    # Every region lies inside the map, so that a window pushed inside still shows it.
    for low, high, length, whole in ((left, right, side, width), (top, bottom, side * shown, height)):
        start = rng.uniform(high + 0.03 * side - length, low - 0.03 * side)
        corner.append(min(max(start, 0), max(0, whole - length)) if length < whole else (whole - length) / 2)
    return View(region_map, corner[0], corner[1], side, size, strip)


def seen_whole(view: View, chosen: list[int]) -> dict[int, Patch] | None:
    """The regions as seen; None where one is too small."""
    patches = {}
    for k in chosen:
        patch = view.patch(k)
        if patch is None or patch.area < max(_LEAST_PIXELS, _LEAST_AREA * view.size**2):
            return None
        if min(patch.box[2] - patch.box[0], patch.box[3] - patch.box[1]) < _LEAST_SIDE * view.size:
            return None
        patches[k] = patch
    return patches


def coloured_views(
    rng: random.Random, split: Split, size: int, count: int, *, named: bool = False
) -> Iterator[tuple[View, dict[int, str], dict[int, Patch]]]:
    """Views with `count` coloured regions that are large enough: view, colours, the regions as seen."""
    pool = drawn_maps(split)
    for _ in range(TRIES if pool else 0):
        region_map = rng.choice(pool)
        regions = _nameable(region_map, size) if named else askable(region_map)
        chosen = _neighbours(rng, region_map, regions, count)
        if not chosen:
            continue
        view = window_around(rng, region_map, chosen, size)
        patches = seen_whole(view, chosen)
        if patches:
            yield view, dict(zip(chosen, rng.sample(BRIGHT, count), strict=True)), patches


def labelled_views(
    rng: random.Random, split: Split, size: int, count: int
) -> Iterator[tuple[View, dict[int, str], dict[int, Patch], tuple[Label, ...]]]:
    """Views whose coloured regions have their names on the map; two regions where there is no room for more."""
    for number in dict.fromkeys((count, 2)):
        for view, colours, patches in coloured_views(rng, split, size, number, named=True):
            labels = place_labels(view, names_of(view, colours), rng, set(colours))
            if labels:
                yield view, colours, patches, tuple(labels)


def names_of(view: View, chosen: Iterable[int]) -> dict[int, str]:
    """Number -> name of regions of a view."""
    return {k: view.region_map.regions[k].name for k in chosen}
