"""Maps with questions: every answer is worked out again from the pixels, the written names and the map's file."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn_maps import grid_map, word, world
from tests.offline.fetched import needs
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.offline import map_questions
from vlm_ablate.offline.canvas import COLOURS
from vlm_ablate.offline.debian.maps import drawn_maps
from vlm_ablate.offline.item import Item
from vlm_ablate.offline.map_pictures import BRIGHT
from vlm_ablate.offline.map_questions import PLACES, capitals, maps
from vlm_ablate.offline.map_views import askable
from vlm_ablate.offline.pictures import SPLITS, Split
from vlm_ablate.offline.scenes import NUMBERS

PACKAGE = "kgeography-data"
KINDS = ("What is the capital", "Which region is", "Which colour is", "Is ", "Which is further",
         "Which coloured region", "In which part", "How many", "Which country")


def seen_colours(item: Item) -> dict[str, np.ndarray]:
    """Bright colour -> where it is in the picture, (height, width) bool; only those that cover something."""
    pixels = item.image.astype(int)
    masks = {name: (np.abs(pixels - COLOURS[name]) <= 8).all(2) for name in BRIGHT}
    return {name: mask for name, mask in masks.items() if mask.sum() > 20}


def written(item: Item) -> dict[str, tuple[int, int, int, int]]:
    """Name -> its box."""
    return {r.text: r.box for r in item.regions if not r.text.endswith(" region")}


def colour_beside(item: Item, box: tuple[int, int, int, int]) -> str:
    """The colour that is met first on the way out of a label."""
    left, top, right, bottom = box
    masks = seen_colours(item)
    for far in range(2, 12):
        counts = {name: int(mask[max(0, top - far) : bottom + far, max(0, left - far) : right + far].sum())
                  for name, mask in masks.items()}
        name = max(counts, key=lambda name: counts[name])
        if counts[name] >= 4:
            return name
    raise AssertionError(f"no colour at {box}")


def middles(item: Item) -> dict[str, tuple[float, float]]:
    """Name -> x, y of the middle of the region whose colour is beside it."""
    boxes = {r.text.removesuffix(" region"): r.box for r in item.regions if r.text.endswith(" region")}
    found = {name: boxes[colour_beside(item, box)] for name, box in written(item).items()}
    return {name: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for name, b in found.items()}


def further(direction: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a is further in a direction than b."""
    return {"north": a[1] < b[1], "south": a[1] > b[1], "west": a[0] < b[0], "east": a[0] > b[0]}[direction]


def check(item: Item, split: Split) -> None:
    """Work the answer out again."""
    question, answer, colours = item.question, item.answer, seen_colours(item)
    if question.startswith("What is the capital"):
        (name,) = written(item)
        known = {(m.area, r.name): r.capitals for m in drawn_maps(split) for r in m.regions}
        area = re.match("map of (.*?),", item.description)[1]
        assert answer == known[area, name][0] and item.references == known[area, name]
    elif found := re.fullmatch(r"Which region is (\w+)\?", question):
        assert colour_beside(item, written(item)[answer]) == found[1]
    elif found := re.fullmatch(r"Which colour is (.+)\?", question):
        assert colour_beside(item, written(item)[found[1]]) == answer
    elif found := re.fullmatch(r"Is (.+) (north|south|west|east) of (.+) on this map\?", question):
        places = middles(item)
        assert (answer == "yes") == further(found[2], places[found[1]], places[found[3]])
        assert (answer == "no") == further(found[2], places[found[3]], places[found[1]])
    elif found := re.fullmatch(r"Which is further (\w+), (.+) or (.+)\?", question):
        places = middles(item)
        assert answer == (found[2] if further(found[1], places[found[2]], places[found[3]]) else found[3])
    elif found := re.fullmatch(r"Which coloured region is the (largest|smallest)\?", question):
        sizes = sorted(((mask.sum(), name) for name, mask in colours.items()), reverse=found[1] == "largest")
        assert sizes[0][1] == answer
        assert max(sizes[0][0], sizes[1][0]) / min(sizes[0][0], sizes[1][0]) > 1.3
    elif found := re.fullmatch(r"In which part of the picture is the (\w+) region\?", question):
        y, x = np.nonzero(colours[found[1]])
        size = len(item.image)
        ninths = Counter(zip((3 * y // size).tolist(), (3 * x // size).tolist(), strict=True))
        (row, column), most = ninths.most_common(1)[0]
        assert PLACES[3 * row + column] == answer and most > 0.85 * len(y)
    elif question == "How many coloured regions are there?":
        assert answer == NUMBERS[len(colours) - 1]
    else:
        assert question == "Which country is this a map of?"
        shown = [m.area for m in drawn_maps(split) if set(written(item)) <= {r.name for r in m.regions}]
        assert answer in shown and item.description.startswith(f"map of {answer},")


def check_drawing(item: Item, size: int) -> None:
    """A square picture with names inside it, apart from each other, and words in ASCII."""
    assert item.image.shape == (size, size, 3) and item.image.dtype == np.uint8
    boxes = list(written(item).values())
    assert all(a >= 0 and b >= 0 and c <= size and d <= size for a, b, c, d in boxes), item
    for i, p in enumerate(boxes):
        assert all(p[0] >= q[2] or q[0] >= p[2] or p[1] >= q[3] or q[1] >= p[3] for q in boxes[:i]), item
    assert all(t.isascii() and t for t in (item.question, item.description, *item.references, *written(item)))
    assert item.answer == item.references[0]


def kind_of(item: Item) -> str:
    return next(kind for kind in KINDS if item.question.startswith(kind))


def test_without_the_package_it_says_how_to_get_it(place: Place) -> None:
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch maps"):
        maps("train", 0, 64)


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_every_answer_follows_from_the_picture(place: Place, size: int) -> None:
    place(PACKAGE, world())
    kinds = Counter()
    for split in SPLITS:
        for index in range(60 if size < 200 else 2560 // size):
            item = maps(split, index, size)
            check_drawing(item, size)
            check(item, split)
            kinds[kind_of(item)] += 1
    assert size > 200 or set(kinds) == set(KINDS), kinds


def test_capitals_are_all_that_the_task_of_that_name_asks_for(place: Place) -> None:
    place(PACKAGE, world())
    for index in range(20):
        item = capitals("report", index, 128)
        assert item.id == f"capitals/report/{index}" and item.question.startswith("What is the capital")
        check_drawing(item, 128)
        check(item, "report")
        assert item.answer not in item.description


def test_an_item_is_a_function_of_its_arguments(place: Place) -> None:
    place(PACKAGE, world())
    first, again, other = maps("report", 7, 128), maps("report", 7, 128), maps("report", 8, 128)
    assert np.array_equal(first.image, again.image) and first.id == "maps/report/7"
    assert (first.question, first.references, first.description, first.regions) == (
        again.question, again.references, again.description, again.regions)
    assert not np.array_equal(first.image, other.image)


def test_the_description_holds_what_the_answer_needs(place: Place) -> None:
    place(PACKAGE, world())
    for index in range(150):
        item = maps("train", index, 128)
        if not item.question.startswith("What is the capital"):  # which one has to know
            needed = re.findall(r"\w+", item.answer) if item.answer not in ("yes", "no") else item.question.split()[2:3]
            assert all(part in item.description for part in needed), item


@pytest.mark.parametrize(("kind", "answers", "most"), [
    ("_is_north_of", 2, 0.6), ("_colour_of_region", 6, 0.26), ("_largest", 6, 0.26), ("_part", 9, 0.19),
    ("_count", 4, 0.36),
])
def test_no_answer_is_worth_guessing(place: Place, kind: str, answers: int, most: float) -> None:
    place(PACKAGE, world())
    ask, rng = getattr(map_questions, kind), random.Random(0)
    drafts = [ask(rng, "train", 128) for _ in range(200)]
    found = Counter(draft.references[0] for draft in drafts if draft)
    assert found.total() > 190 and len(found) == answers and max(found.values()) / found.total() < most, found


def test_the_first_of_two_is_as_often_right_as_the_second(place: Place) -> None:
    place(PACKAGE, world())
    rng = random.Random(0)
    drafts = [map_questions._which_is_further(rng, "train", 128) for _ in range(200)]
    first = sum(draft.question.endswith(f"or {draft.references[0]}?") for draft in drafts)
    assert 80 < first < 120


def test_a_region_too_small_to_be_seen_is_not_asked_about(place: Place) -> None:
    names = [word(k) for k in range(9)]
    files = {}
    for k in range(12):
        files |= grid_map(f"land{k}", f"Land {k}", names, widths=(3, 60, 60))
    place(PACKAGE, files)
    for index in range(60):
        item = maps("train", index, 128)
        assert not set(written(item)) & set(names[0::3]), item
        boxes = [r.box for r in item.regions if r.text.endswith(" region")]
        assert all(min(c - a, d - b) >= 0.05 * 128 for a, b, c, d in boxes)


def test_two_regions_of_one_name_are_not_asked_about(place: Place) -> None:
    place(PACKAGE, grid_map("land", "Land", ["Same", "Same", "Other"]))
    (land,) = (m for split in SPLITS for m in drawn_maps(split))
    assert askable(land) == (2,)


def test_a_split_without_maps_is_one_error(place: Place) -> None:
    place(PACKAGE, grid_map("africa", "Africa", ["A", "B", "C"], kind="Countries"))
    with pytest.raises(DataError, match="no map of the report split"):
        maps("report", 0, 64)


def test_shares_are_of_a_hundred() -> None:
    assert sum(map_questions.KINDS.values()) == 100


@needs("maps")
@pytest.mark.parametrize("split", SPLITS)
def test_real_maps_are_asked_about_exactly(split: Split) -> None:
    kinds = Counter()
    for index in range(120):
        item = maps(split, index, 128)
        check_drawing(item, 128)
        check(item, split)
        kinds[kind_of(item)] += 1
    assert len(kinds) >= 8 and kinds["What is the capital"] > 15, kinds
