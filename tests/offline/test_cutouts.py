"""Scenes of stamps, clip art and drawings: every answer is true of the scene, and asked only where one is true."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn import CLIP_ART, filled, png, stamp, svg
from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline.canvas import COLOURS
from vlm_ablate.offline.cutouts import Cutout, ask, cutouts, cutouts_of, met_in_train, sample_scene
from vlm_ablate.offline.debian import clip_art, stamps
from vlm_ablate.offline.debian.siblings import groups
from vlm_ablate.offline.kinds import is_plural, kind_of, kinds, with_article
from vlm_ablate.offline.pictures import SPLITS, Picture, things
from vlm_ablate.offline.scenes import NUMBERS, PLACES

pytestmark = pytest.mark.usefixtures("offline_material")


@pytest.fixture
def fetched(place: Place) -> None:
    """Twenty stamps and twenty drawings with names, some of them of the same things, and a few without."""
    names = "owl penguin lion zebra apple pear banana violin trumpet hammer saw bus truck igloo frog bee crown".split()
    files: dict[str, bytes] = {}
    for k, name in enumerate(names):
        files |= stamp(f"some/{name}.png", f"{with_article(name).capitalize()}.", png(k))
    files |= stamp("some/cherries.png", "Some cherries.", png(90))
    files |= stamp("some/dark.png", "A cello.", filled((20, 20, 20)))
    files |= stamp("some/fire.png", "Fire! Fire!", png(91))
    files |= stamp("some/feathers.png", "A feathered hat.", png(92))
    place("tuxpaint-stamps-default", files)
    place("openclipart-svg", {
        f"{CLIP_ART}/some/{k}.svg": svg(300 + k, title, creator=str(k))
        for k, title in enumerate([*names, "Apple pie", "Two lions at home"])
    })


def test_without_the_packages_it_says_what_is_missing(place: Place) -> None:
    with pytest.raises(AssetMissing, match="fetch stamps"):
        cutouts("train", 0, 64)
    place("tuxpaint-stamps-default", stamp("some/owl.png", "An owl.", png(1)))
    with pytest.raises(AssetMissing, match="fetch clip_art"):
        cutouts("train", 0, 64)


@pytest.mark.usefixtures("fetched")
def test_pictures_have_names_and_kinds_and_one_split() -> None:
    pools = [cutouts_of(split) for split in SPLITS]
    for pool, split in zip(pools, SPLITS, strict=True):
        assert all(p.name and p.kind and p.picture.split == split for p in pool)
        assert {p.picture.key for p in pool if isinstance(p.picture, Picture)} <= {p.key for p in things(split)}
    everything = [p for pool in pools for p in pool]
    assert not {"fire", "two lions at home"} & {p.name for p in everything}
    assert Counter(p.name for p in everything)["owl"] == 3                      # a stamp, a drawing and an emoji
    assert len({p.picture.key for p in everything}) == len(everything)


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_true_of_the_scene(split) -> None:
    pool = cutouts_of(split)
    forms: Counter[str] = Counter()
    for k in range(1500):
        rng = random.Random(k)
        scene = sample_scene(rng, pool, pool)
        question, answer = ask(scene, rng, pool)
        placed: dict[str, Cutout] = dict(scene.placed)
        assert 1 <= len(placed) <= 4 and all(scene.ground in p.grounds for p in placed.values())
        names, kinds_ = [p.name for p in placed.values()], [p.kind for p in placed.values()]
        if match := re.fullmatch(r"What is at the (.+)\?", question):
            assert placed[match[1]].name == answer
        elif match := re.fullmatch(r"What kind of thing is at the (.+)\?", question):
            assert placed[match[1]].kind == answer and answer not in placed[match[1]].name.split()
        elif match := re.fullmatch(r"Where (is|are) the (.+)\?", question):
            assert placed[answer].name == match[2] and kinds_.count(placed[answer].kind) == 1
            assert (match[1] == "are") == is_plural(match[2])
        elif match := re.fullmatch(r"(?:Is there (?:an?|any)|Are there) (.+)\?", question):
            assert answer == ("yes" if match[1] in names else "no")
            assert answer == "yes" or kind_of(match[1]) not in kinds_
        elif question == "What colour is the ground?":
            assert answer == scene.ground and answer in COLOURS
        else:
            assert question == "How many things are there?" and answer == NUMBERS[len(placed) - 1]
        forms[question.split()[0] + " " + question.split()[1] + (" " + answer if answer in ("yes", "no") else "")] += 1
    assert {"What is", "What kind", "What colour", "Where is", "How many", "Is there yes", "Is there no"} <= set(forms)


@pytest.mark.usefixtures("fetched")
def test_some_scenes_show_the_same_thing_with_several_faces() -> None:
    pool = cutouts_of("train")
    seen = set()
    for k in range(600):
        pictures = [p for _, p in sample_scene(random.Random(k), pool, pool).placed]
        if len(pictures) > 1 and len({p.name for p in pictures}) == 1:
            seen.add(len({p.picture.key for p in pictures}) > 1)
    assert seen == {True, False}


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("size", [64, 72, 128, 512])
def test_an_item_is_a_function_of_its_arguments(size: int) -> None:
    for index in range(5):
        item, again = cutouts("report", index, size), cutouts("report", index, size)
        assert np.array_equal(item.image, again.image) and item.image.shape == (size, size, 3)
        assert (item.id, item.question, item.answer) == (f"cutouts/report/{index}", again.question, again.answer)
        assert item.references[0] == item.answer
        for region in item.regions:
            assert region.text in item.description
            down, across = region.box[1] >= size // 2, region.box[0] >= size // 2
            place = f"{'bottom' if down else 'top'} {'right' if across else 'left'}"
            assert place in PLACES and place in item.description
            assert max(region.box) <= size
    assert not np.array_equal(cutouts("report", 0, size).image, cutouts("report", 1, size).image)


def test_kinds_are_those_of_the_last_words() -> None:
    assert kind_of("owl") == kind_of("great horned owl") == "bird"
    assert kind_of("red apple") == "fruit" and kind_of("apple pie") == "dessert"
    assert kind_of("speech balloon") == kind_of("economy") == "" and kind_of("balloon") == "toy"
    assert [with_article(name) for name in ("owl", "unicorn", "cat", "apple pie", "garlic bread")] == [
        "an owl", "a unicorn", "a cat", "an apple pie", "any garlic bread"]
    plural = {name for name in kinds() if is_plural(name)}
    assert {"cherries", "scissors", "jeans", "pants", "skis", "tennis shoes"} <= plural
    assert not {"glass", "bus", "octopus", "iris", "dress", "hibiscus", "cactus", "rhinoceros"} & plural


# --- the packages themselves, where they were fetched ---------------------------------------------------------------


def test_the_real_cutouts() -> None:
    try:
        pools = [cutouts_of(split) for split in SPLITS]
    except AssetMissing as missing:
        pytest.skip(str(missing))
    faces = Counter(p.name for pool in pools for p in pool)
    assert sum(faces.values()) > 900 and len(faces) > 550
    assert sum(1 for n in faces.values() if n > 1) > 150
    item = cutouts("report", 0, 128)
    assert item.image.shape == (128, 128, 3) and item.answer


@pytest.mark.usefixtures("fetched")
def test_the_plain_name_is_the_answer_and_the_whole_name_is_right_too() -> None:
    split = next(s for s in SPLITS if any(p.picture.name == "feathered hat" for p in cutouts_of(s)))
    hat = next(p for p in cutouts_of(split) if p.picture.name == "feathered hat")
    assert (hat.name, hat.kind) == ("hat", "hat")
    items = (cutouts(split, k, 64) for k in range(3000))
    asked = next(i for i in items if "feathered hat" in i.references)
    assert asked.answer == "hat" and asked.question.startswith("What is at the ")
    assert asked.references == ("hat", "feathered hat")


@pytest.mark.usefixtures("fetched")
def test_most_reported_names_were_met_in_training() -> None:
    known, met = {p.name for p in cutouts_of("train")}, met_in_train("report")
    assert 0 < len(met) < len(cutouts_of("report"))
    names = [p.name for k in range(300) for _, p in sample_scene(random.Random(k), cutouts_of("report"), met).placed]
    assert 0.75 < sum(name in known for name in names) / len(names) < 1


def test_no_drawing_that_both_collections_have_is_in_two_splits() -> None:
    try:
        both = (*stamps.stamps(), *clip_art.clip_art())
    except AssetMissing as missing:
        pytest.skip(str(missing))
    thumbs = np.stack([p.look.thumbnail() for p in both])
    splits: dict[str, set[str]] = {}
    for group, picture in zip(groups([p.group for p in both], [[p.group] for p in both], thumbs), both, strict=True):
        splits.setdefault(group, set()).add(picture.split)
    assert [group for group, found in splits.items() if len(found) > 1] == []
