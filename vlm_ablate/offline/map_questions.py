"""Maps with questions: what a coloured region is called, where it lies, what its capital is.

Shares: a capital (24 %: named on the map, known by the language model; 55 % of them countries), which region has a
colour (14 %), which colour a region has (14 %), north of or not (10 %), which is further west (8 %), the largest or
smallest (8 %), the part of the picture (10 %), how many (8 %), which country the map shows (4 %).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from PIL import ImageFont

from vlm_ablate.errors import DataError
from vlm_ablate.offline.debian.map_names import NO_STATES
from vlm_ablate.offline.debian.maps import capital_to_ask, country_names, drawn_maps, geometry
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.map_pictures import (
    BRIGHT,
    Label,
    Patch,
    View,
    draw_map,
    place_labels,
    strip_height,
    title_font,
    write_labels,
    write_title,
)
from vlm_ablate.offline.map_views import (
    TRIES,
    askable,
    coloured_views,
    labelled_views,
    names_of,
    seen_whole,
    window_around,
)
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.scenes import NUMBERS

PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
"""Parts of a picture, row by row."""

_APART = 0.2
"""Of two regions, one is north of the other if their middles are this share of the picture apart and neither middle is
between the other's northern and southern ends."""
_CLEARLY = 1.5
"""The largest region is this many times as large as the next; so is the next to the smallest."""
_OPPOSITE = {"north": "south", "south": "north", "west": "east", "east": "west"}


@dataclass(frozen=True)
class Draft:
    """A question about a view, before it is drawn."""

    view: View
    colours: dict[int, str]
    question: str
    references: tuple[str, ...]
    """First the answer."""
    facts: str
    """What the description adds to where the coloured regions are."""
    labels: tuple[Label, ...] = ()
    title: tuple[str, ImageFont.FreeTypeFont] | None = None


Kind = Callable[[random.Random, Split, int], Draft | None]
"""Makes a question of one kind, or None where chance offers no map for it."""


def maps(split: Split, index: int, size: int) -> Item:
    """A map with some regions in bright colours and a question about it.

    Raises:
        AssetMissing: the collection `maps` was not fetched.
        DataError: one of its files is broken, or no map of the split can be asked about at this size.
    """
    return _asked("maps", KINDS, split, index, size)


def capitals(split: Split, index: int, size: int) -> Item:
    """A map with one region in a bright colour and its name, and the question for its capital, which is not there.

    Raises:
        AssetMissing, DataError: as `maps`.
    """
    return _asked("capitals", {_capital: 1}, split, index, size)


def _asked(task: str, shares: Mapping[Kind, int], split: Split, index: int, size: int) -> Item:
    rng = item_rng(task, split, index)
    kinds = list(shares)
    make = rng.choices(kinds, list(shares.values()))[0]
    draft = make(rng, split, size) or next(filter(None, (rng.choice(kinds)(rng, split, size) for _ in range(20))), None)
    if draft is None:
        raise DataError(f"no map of the {split} split has regions that can be asked about at {size} pixels")
    canvas = draw_map(draft.view, draft.colours, rng)
    write_labels(canvas, list(draft.labels))
    if draft.title:
        write_title(canvas, *draft.title)
    return Item(f"{task}/{split}/{index}", canvas.pixels(), draft.question, draft.references[0], draft.references,
                _describe(draft), tuple(canvas.regions))


def _describe(draft: Draft) -> str:
    view, names = draft.view, {k: draft.view.region_map.regions[k].name for k in draft.colours}
    written = {label.text for label in draft.labels} | ({draft.title[0]} if draft.title else set())
    parts = [f"map of {view.region_map.area}"]
    for k, colour in draft.colours.items():
        patch = view.patch(k)
        if patch:
            called = names[k] if names[k] in written else "region"
            parts.append(f"{called} {colour} {place_of(patch.centroid, view.size)}")
    return ", ".join(parts + ([draft.facts] if draft.facts else []))


def place_of(point: tuple[float, float], size: int) -> str:
    """The ninth of the picture that a point (x, y) lies in."""
    return PLACES[3 * min(2, int(3 * point[1] / size)) + min(2, int(3 * point[0] / size))]


def _capital(rng: random.Random, split: Split, size: int) -> Draft | None:
    """One region, its name on it or above the map."""
    countries, above = rng.random() < 0.55, rng.random() < 0.5
    pool = [m for m in drawn_maps(split) if m.of_countries == countries and any(map(capital_to_ask, m.regions))]
    for _ in range(TRIES if pool else 0):
        # Continents by their number of countries, so that no country comes far more often than another.
        region_map = rng.choices(pool, [len(m.regions) if countries else 1 for m in pool])[0]
        known = [k for k in askable(region_map) if capital_to_ask(region_map.regions[k])]
        if not known:
            continue
        k = rng.choice(known)
        region = region_map.regions[k]
        face = title_font(region.name, size, rng) if above else None
        view = window_around(rng, region_map, [k], size, strip_height(size) if face else 0)
        if not seen_whole(view, [k]):
            continue
        labels = () if face else place_labels(view, {k: region.name}, rng, {k})
        if labels is None:
            continue
        noun = "country" if countries and region.name not in NO_STATES else "region"
        question = f"What is the capital of the coloured {noun}?"
        return Draft(view, {k: rng.choice(BRIGHT)}, question, capital_to_ask(region), "", tuple(labels),
                     (region.name, face) if face else None)
    return None


def _region_of_colour(rng: random.Random, split: Split, size: int) -> Draft | None:
    for view, colours, _, labels in labelled_views(rng, split, size, rng.randint(2, 4)):
        k = rng.choice(list(colours))
        return Draft(view, colours, f"Which region is {colours[k]}?", (names_of(view, [k])[k],), "", labels)
    return None


def _colour_of_region(rng: random.Random, split: Split, size: int) -> Draft | None:
    for view, colours, _, labels in labelled_views(rng, split, size, rng.randint(2, 4)):
        k = rng.choice(list(colours))
        return Draft(view, colours, f"Which colour is {names_of(view, [k])[k]}?", (colours[k],), "", labels)
    return None


def _ordered(patches: dict[int, Patch], axis: int, size: int) -> list[int] | None:
    """Two regions from north to south (axis 1) or from west to east (axis 0); None where that is not clear."""
    a, b = sorted(patches, key=lambda k: patches[k].centroid[axis])
    first, second = patches[a], patches[b]
    clear = second.centroid[axis] - first.centroid[axis] >= _APART * size
    beyond = first.centroid[axis] < second.box[axis] and second.centroid[axis] >= first.box[axis + 2]
    return [a, b] if clear and beyond else None


def _is_north_of(rng: random.Random, split: Split, size: int) -> Draft | None:
    truth, direction = rng.random() < 0.5, rng.choice(list(_OPPOSITE))
    found = _compass(rng, split, size, direction)
    if found is None:
        return None
    view, colours, labels, (most, least), facts = found
    one, other = (most, least) if truth else (least, most)
    names = names_of(view, colours)
    question = f"Is {names[one]} {direction} of {names[other]} on this map?"
    return Draft(view, colours, question, ("yes" if truth else "no",), facts, labels)


def _which_is_further(rng: random.Random, split: Split, size: int) -> Draft | None:
    direction, swap = rng.choice(list(_OPPOSITE)), rng.random() < 0.5
    found = _compass(rng, split, size, direction)
    if found is None:
        return None
    view, colours, labels, (most, least), facts = found
    names = names_of(view, colours)
    one, other = (least, most) if swap else (most, least)
    question = f"Which is further {direction}, {names[one]} or {names[other]}?"
    return Draft(view, colours, question, (names[most],), facts, labels)


def _compass(
    rng: random.Random, split: Split, size: int, direction: str
) -> tuple[View, dict[int, str], tuple[Label, ...], tuple[int, int], str] | None:
    """Two labelled regions, first the one that is clearly further in a direction, and that in words."""
    axis = 1 if direction in ("north", "south") else 0
    for view, colours, patches, labels in labelled_views(rng, split, size, 2):
        order = _ordered(patches, axis, size)
        if order is None:
            continue
        most, least = order if direction in ("north", "west") else order[::-1]
        names = names_of(view, colours)
        facts = f"{names[most]} {direction} of {names[least]}, {names[least]} {_OPPOSITE[direction]} of {names[most]}"
        return view, colours, labels, (most, least), facts
    return None


def _largest(rng: random.Random, split: Split, size: int) -> Draft | None:
    smallest = rng.random() < 0.5
    for view, colours, patches in coloured_views(rng, split, size, rng.randint(2, 4)):
        order = sorted(patches, key=lambda k: patches[k].area, reverse=not smallest)
        ratio = patches[order[0]].area / patches[order[1]].area
        if max(ratio, 1 / ratio) < _CLEARLY or not _whole(view, colours):
            continue
        word = "smallest" if smallest else "largest"
        facts = f"{colours[order[0]]} region {word}"
        return Draft(view, colours, f"Which coloured region is the {word}?", (colours[order[0]],), facts)
    return None


def _whole(view: View, chosen: Iterable[int]) -> bool:
    """Whether each region is a single piece, but for specks."""
    return all(geometry(view.region_map).shape(k).largest_piece > 0.9 for k in chosen)


def _part(rng: random.Random, split: Split, size: int) -> Draft | None:
    """One region well inside a ninth of the picture; the window is laid so, and may reach over the map's edge."""
    place, pool = rng.randrange(9), drawn_maps(split)
    for _ in range(TRIES if pool else 0):
        region_map = rng.choice(pool)
        if not askable(region_map):
            continue
        k = rng.choice(askable(region_map))
        g = geometry(region_map)
        shape = g.shape(k)
        side = max(shape.box[2] - shape.box[0], shape.box[3] - shape.box[1], 0.12 * size) * rng.uniform(3, 4.5)
        left, top = (shape.centroid[i] - (cell + rng.uniform(0.4, 0.6)) / 3 * side
                     for i, cell in enumerate((place % 3, place // 3)))
        height, width = g.labels.shape
        over = max(0, -left) + max(0, left + side - width), max(0, -top) + max(0, top + side - height)
        view = View(region_map, left, top, side, size)
        if max(over) > 0.4 * side or not seen_whole(view, [k]) or not _inside_ninth(view, k, place):
            continue
        colour = rng.choice(BRIGHT)
        return Draft(view, {k: colour}, f"In which part of the picture is the {colour} region?", (PLACES[place],), "")
    return None


def _inside_ninth(view: View, k: int, place: int) -> bool:
    """Whether nine tenths of a region (of the whole of it, cut off or not) lie in a ninth of the picture."""
    x, y = (round(cell * view.size / 3) for cell in (place % 3, place // 3))
    x1, y1 = (round((cell + 1) * view.size / 3) for cell in (place % 3, place // 3))
    whole = geometry(view.region_map).shape(k).area * (view.size / view.side) ** 2
    return bool((view.seen[y:y1, x:x1] == k).sum() >= 0.9 * whole)


def _count(rng: random.Random, split: Split, size: int) -> Draft | None:
    count = rng.randint(1, 4)
    for view, colours, _ in coloured_views(rng, split, size, count):
        if _whole(view, colours):
            return Draft(view, colours, "How many coloured regions are there?", (NUMBERS[count - 1],),
                         f"{NUMBERS[count - 1]} coloured")
    return None


def _country(rng: random.Random, split: Split, size: int) -> Draft | None:
    """A whole country with the names of one to three regions."""
    states = country_names() - NO_STATES
    pool = sorted({m.area for m in drawn_maps(split)} & states)
    for _ in range(TRIES if pool else 0):
        area = rng.choice(pool)
        region_map = rng.choice([m for m in drawn_maps(split) if m.area == area])
        boxes = [shape.box for shape in geometry(region_map).shapes if shape]
        left, top, right, bottom = (f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max)))
        side = 1.06 * max(right - left, bottom - top)
        view = View(region_map, (left + right - side) / 2, (top + bottom - side) / 2, side, size)
        large = [k for k in askable(region_map) if seen_whole(view, [k])]
        chosen = rng.sample(large, min(rng.randint(1, 3), len(large)))
        colours = dict(zip(chosen, rng.sample(BRIGHT, len(chosen)), strict=True))
        labels = place_labels(view, names_of(view, chosen), rng, set(chosen)) if chosen else None
        if labels and area not in names_of(view, chosen).values():
            also = ("USA",) if area == "United States" else ()
            return Draft(view, colours, "Which country is this a map of?", (area, *also), "", tuple(labels))
    return None


KINDS: dict[Kind, int] = {
    _capital: 24, _region_of_colour: 14, _colour_of_region: 14, _is_north_of: 10, _which_is_further: 8, _largest: 8,
    _part: 10, _count: 8, _country: 4,
}
"""Kind of question -> share, in per cent."""
