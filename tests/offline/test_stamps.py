"""Stamps: which are taken, what they are called, and that variants of one picture stand in one split."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn import STAMPS, filled, png, stamp
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.offline.debian.drawing import look_at
from vlm_ablate.offline.debian.siblings import groups
from vlm_ablate.offline.debian.stamps import Stamp, name_of, sentence_of, stamps
from vlm_ablate.offline.pictures import SPLITS
from vlm_ablate.offline.stamps import stamps as stamps_task

PACKAGE = "tuxpaint-stamps-default"


def found() -> dict[str, Stamp]:
    return {s.key: s for s in stamps()}


def some(count: int) -> dict[str, bytes]:
    """Stamps of things that all are different."""
    files: dict[str, bytes] = {}
    for k in range(count):
        word = "".join(chr(ord("a") + int(digit)) for digit in f"{k:03d}")
        files |= stamp(f"animals/birds/{word}.png", f"A {word} bird.", png(k))
    return files


def test_without_the_package_it_says_how_to_get_it(place: Place) -> None:
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch stamps"):
        stamps_task("train", 0, 64)


def test_a_stamp_has_sentence_name_kind_and_style(place: Place) -> None:
    place(PACKAGE, {
        **stamp("animals/birds/owl.png", "An owl.", png(1)),
        **stamp("clothes/glasses1.png", "A pair of glasses.", png(2)),
        **stamp("town/houses/cartoon/igloo.png", "An igloo made of “ice” — Brrr! It’s cold.", png(3)),
    })
    owl, glasses, igloo = (found()[k] for k in (
        "animals/birds/owl.png", "clothes/glasses1.png", "town/houses/cartoon/igloo.png"))
    assert (owl.sentence, owl.caption, owl.name, owl.kind, owl.cartoon) == ("An owl.", "an owl", "owl", "bird", False)
    assert (glasses.name, glasses.kind) == ("glasses", "eyewear")
    assert (igloo.sentence, igloo.name, igloo.cartoon) == ('An igloo made of "ice", Brrr.', "", True)


@pytest.mark.parametrize(("text", "sentence"), [
    ("A camera.  Say Cheese!", "A camera."),
    ("Fire! Fire! Fire!", "Fire."),
    ("", ""),
    ("Eat your bread!", ""),
    ("“Yield” means you have to let other people go first.", ""),
    ("A US dollar.", "A US dollar."),
    (" ".join(["word"] * 21), ""),
])
def test_only_what_describes_is_a_sentence(text: str, sentence: str) -> None:
    assert sentence_of(text) == sentence


@pytest.mark.parametrize(("sentence", "name"), [
    ("A great blue heron.", "great blue heron"), ("Some cherries.", "cherries"), ("The Sun.", "sun"),
    ("A bunch of grapes.", ""), ("A very small pumpkin.", ""), ("Teddy bear.", "teddy bear"), ("Knitting.", ""),
    ("A spider playing soccer.", ""), ("The sign for the letter A in American Sign Language.", ""),
])
def test_only_a_plain_noun_phrase_is_a_name(sentence: str, name: str) -> None:
    assert name_of(sentence) == name


def test_what_cannot_be_shown_is_left_out(place: Place) -> None:
    place(PACKAGE, {
        **some(3),
        **stamp("food/broken.png", "A pie.", b"no picture"),
        **stamp("food/blank.png", "A cake.", filled((0, 0, 0))[:40]),
        **stamp("food/line.png", "A noodle.", png(5, (300, 2))),
        f"{STAMPS}/animals/birds/aaa_mirror.png": png(9),
        f"{STAMPS}/animals/birds/sound.txt": b"A sound.\n",
    })
    assert set(found()) == {f"animals/birds/{w}.png" for w in ("aaa", "aab", "aac")}


def test_an_unusable_package_is_a_clear_error(place: Place) -> None:
    place(PACKAGE, stamp("food/broken.png", "A pie.", b"no picture"))
    with pytest.raises(DataError, match="no usable pictures"):
        stamps()


def test_variants_of_one_picture_are_siblings(place: Place) -> None:
    place(PACKAGE, {
        **some(5),
        **stamp("animals/mammals/cats/lion.png", "A lion.", png(50)),
        **stamp("animals/mammals/cats/lion-2.png", "A lioness.", png(51)),             # same stem
        **stamp("animals/mammals/cats/tomcat.png", "A cat.", png(52)),
        **stamp("seasonal/puss.png", "A puss.", png(52)),                              # same content
        **stamp("animals/mammals/dogs/dog.png", "A dog.", png(54)),
        **stamp("animals/mammals/dogs/whelp.png", "A dog.", png(55)),                  # same sentence and folder
        **stamp("plants/oak.png", "An oak.", filled((200, 30, 30))),
        **stamp("plants/elm.png", "An elm.", filled((202, 31, 30))),                   # looks the same
    })
    sizes = Counter(s.group for s in stamps())
    assert sorted(sizes.values()) == [1] * 5 + [2] * 4
    by_key = found()
    for a, b in (("animals/mammals/cats/lion", "animals/mammals/cats/lion-2"), ("plants/oak", "plants/elm"),
                 ("animals/mammals/cats/tomcat", "seasonal/puss")):
        assert by_key[f"{a}.png"].group == by_key[f"{b}.png"].group
        assert by_key[f"{a}.png"].split == by_key[f"{b}.png"].split


def test_thin_drawings_are_no_siblings_because_little_of_them_is_seen() -> None:
    rng = np.random.default_rng(0)
    thumbs = np.full((3, 192), 128, np.float32)
    thumbs[0, rng.permutation(192)[:8]], thumbs[1, rng.permutation(192)[:8]] = 60, 60
    thumbs[2] = thumbs[0] + 0.2
    assert groups(["a", "b", "c"], [(), (), ()], thumbs) == ["a", "b", "a"]


def test_every_stamp_is_in_one_split(place: Place) -> None:
    place(PACKAGE, some(60))
    parts = [{s.key for s in stamps(split)} for split in SPLITS]
    assert all(parts) and sum(map(len, parts)) == 60 == len(set().union(*parts))
    assert len(parts[0]) > len(parts[2]) > len(parts[1])


def test_files_are_looked_at_once_and_again_when_they_change(place: Place, monkeypatch) -> None:
    from vlm_ablate.offline.debian import stamps as module

    looked = []
    monkeypatch.setattr(module, "look_at", lambda path: looked.append(path) or look_at(path))
    place(PACKAGE, some(4))
    first = stamps()
    for cache in (module._stamps, module._of_split):
        cache.cache_clear()
    assert stamps() == first and len(looked) == 4
    place(PACKAGE, stamp("food/pie.png", "A pie.", png(77)))
    for cache in (module._stamps, module._of_split):
        cache.cache_clear()
    assert len(stamps()) == 5 and len(looked) == 9


@pytest.mark.parametrize("size", [64, 100, 128, 512])
def test_an_item_shows_the_stamp_and_says_its_sentence(place: Place, size: int) -> None:
    place(PACKAGE, some(30))
    item, again = stamps_task("train", 3, size), stamps_task("train", 3, size)
    assert np.array_equal(item.image, again.image) and item.image.shape == (size, size, 3)
    assert item.id == "stamps/train/3" and item.question == ""
    assert item.answer in {s.caption for s in stamps("train")} and item.references == (item.answer,)
    assert item.answer in item.description
    left, top, right, bottom = item.regions[0].box
    assert 0 <= left < right <= size and 0 <= top < bottom <= size
    outside = np.ones((size, size), bool)
    outside[top:bottom, left:right] = False
    assert len(np.unique(item.image[outside].reshape(-1, 3), axis=0)) <= 1
    assert len(np.unique(item.image[top:bottom, left:right].reshape(-1, 3), axis=0)) > 4


def test_every_stamp_comes_before_any_comes_again(place: Place) -> None:
    place(PACKAGE, some(30))
    pool = len(stamps("train"))
    answers = [stamps_task("train", k, 64).answer for k in range(2 * pool)]
    assert len(set(answers[:pool])) == pool and answers[:pool] == answers[pool:]


def test_margins_are_cut_and_the_proportions_kept(place: Place) -> None:
    place(PACKAGE, stamp("vehicles/bus.png", "A bus.", png(3, (80, 40))))
    alpha = stamps()[0].raster(64)[..., 3] > 128
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert columns[-1] - columns[0] + 1 >= 62
    assert abs((rows[-1] - rows[0] + 1) - 32) <= 2 and abs(rows[0] - 16) <= 2


def test_a_picture_stands_on_a_ground_on_which_it_is_seen(tmp_path) -> None:
    path = tmp_path / "black.png"
    path.write_bytes(filled((30, 30, 30)))
    look = look_at(path)
    assert look and "black" not in look.grounds and "white" in look.grounds


# --- the package itself, where it was fetched -----------------------------------------------------------------------


@pytest.fixture
def real() -> tuple[Stamp, ...]:
    try:
        return stamps()
    except AssetMissing as missing:
        pytest.skip(str(missing))


def test_the_real_stamps(real: tuple[Stamp, ...]) -> None:
    assert 850 <= len(real) <= 950
    named = [s for s in real if s.name and s.kind]
    assert len(named) > 350 and {"penguin", "violin", "pineapple"} <= {s.name for s in named}
    by_key = {s.key: s for s in real}
    assert by_key["animals/birds/heron_greatblue.png"].caption == "a great blue heron"
    assert by_key["animals/mammals/aquatic/whale.png"].kind == "mammal"
    assert all(s.sentence.isascii() and len(s.sentence.split()) <= 20 for s in real)
    shares = {split: len(stamps(split)) / len(real) for split in SPLITS}
    assert 0.5 < shares["train"] < 0.7 and 0.05 < shares["tune"] < 0.16 and 0.22 < shares["report"] < 0.4
