"""Clip art: words read safely out of RDF, titles that are captions, and siblings in one split."""

from __future__ import annotations

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn import CLIP_ART, svg
from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline.clip_art import clip_art as clip_art_task
from vlm_ablate.offline.debian.clip_art import ClipArt, clip_art, words_of
from vlm_ablate.offline.debian.clip_titles import (
    clean_description,
    clean_flag,
    clean_other_flag,
    clean_title,
)
from vlm_ablate.offline.pictures import SPLITS, flag_key, flags

PACKAGE = "openclipart-svg"

BIRDS = "crow duck eagle goose gull heron lark owl parrot pelican pigeon robin stork swan toucan turkey wren".split()


def files(**drawings: bytes) -> dict[str, bytes]:
    """Path below the collection, '__' for '/', without its ending -> content."""
    return {f"{CLIP_ART}/{name.replace('__', '/')}.svg": body for name, body in drawings.items()}


def some(count: int) -> dict[str, bytes]:
    titles = [f"{a} and {b}" for k, a in enumerate(BIRDS) for b in BIRDS[k + 1 :]]
    return files(**{f"animals__birds__b{k}": svg(k, titles[k], creator=f"maker {k}") for k in range(count)})


def found() -> dict[str, ClipArt]:
    return {p.key.removesuffix(".svg"): p for p in clip_art()}


def test_without_the_package_it_says_how_to_get_it(place: Place) -> None:
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch clip_art"):
        clip_art_task("train", 0, 64)


def test_words_are_those_of_the_work_not_of_its_maker(place: Place) -> None:
    words = words_of(svg(1, "Red_Apple01", description="A ripe apple.", keywords=("food", "fruit"), creator="Ann Lee"))
    assert words and (words.title, words.description, words.keywords, words.creator) == (
        "Red_Apple01", "A ripe apple.", ("food", "fruit"), "Ann Lee")


@pytest.mark.parametrize("broken", [
    b"", b"no markup", b"<svg", svg(1, "Apple")[:-200], svg(1, ""), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\xff\xfe\x00broken", b"<?xml version='1.0' encoding='no-such-code'?><svg/>",
    svg(1, "Apple").decode().replace("UTF-8", "UTF-16").encode("utf-16"),
    b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]>" + svg(1, "&b;")[38:],
])
def test_broken_and_hostile_files_have_no_words(broken: bytes) -> None:
    assert words_of(broken) is None


@pytest.mark.parametrize(("title", "caption"), [
    ("Apple Bitten", "apple bitten"), ("Clipart by Nicu Buculei - birthday_cake", "birthday cake"),
    ("Hot Dog (B and W)", "hot dog in black and white"), ("Sandwich_One_bw", "sandwich one in black and white"),
    ("AfricanDrum2", "african drum"), ("ear - body part", "ear"),
    ("Croissant (B &amp; W)", "croissant in black and white"),
    ("Violin (Colour)", "violin"), ("Lemon (Half Slice)", "lemon, half slice"), ("Magnifing Glass", "magnifying glass"),
    ("8 ball", "8 ball"), ("arrow-down-blue", "arrow down blue"),
    ("Gatto Nero", ""), ("protection obligatoire vue", ""), ("MD5", ""), ("ralf@ark.in-berlin.de", ""),
    ("books-aj.svg", ""), ("M", ""), ("L&Atilde;&copy;zard", ""),
])
def test_titles_become_captions_or_nothing(title: str, caption: str) -> None:
    assert clean_title(title) == caption


def test_flags_are_said_to_be_flags() -> None:
    assert clean_flag(" czech_republic", "europe flag") == "flag of czech republic"
    assert clean_flag("Clipart by Rob Adams - United States - Hawaii", "") == "flag of hawaii"
    assert clean_flag("Andalusia", "a simple map of andalusia, enjoy it!") == ""
    assert clean_flag("Ukrainian flag", "") == "ukrainian flag"
    assert clean_other_flag("Historic - East Germany") == "historic flag of east germany"


def test_only_descriptions_that_say_more_of_the_picture_are_kept() -> None:
    assert clean_description("Apple with a bite taken out.", "apple bitten") == "apple with a bite taken out"
    for text in ("Apple bitten", "HASH(0x86d2470)", "Made with inkscape", "Nice! I like it. Enjoy.", "a@b.de"):
        assert clean_description(text, "apple bitten") == ""


def test_what_is_taken_and_what_is_left_out(place: Place) -> None:
    series = {f"shapes__s{k}": svg(100 + k, "gramastar") for k in range(4)}
    numbered = {f"people__p{k}": svg(200 + k, f"BlueMan#10{k}") for k in range(5)}
    place(PACKAGE, files(
        food__apple=svg(1, "Apple", keywords=("fruit",), description="A ripe apple with a leaf."),
        recreation__apple_again=svg(1, "Apple", keywords=("fruit",), description="A ripe apple with a leaf."),
        computer__icons__mouse=svg(2, "Mouse"), food__blank=svg(3, "Pear", body=""),
        food__speck=svg(4, "Plum", body='<rect width="3" height="3"/>'),
        food__hidden=svg(5, "Fig", body='<rect x="900" width="9" height="9"/>'),
        food__architetto=svg(6, "Mela", creator="Architetto Francesco Rollandin"), food__cut=svg(7, "Cake")[:700],
        transportation__car=svg(8, "A Car"), **series, **numbered,
    ))
    pictures = found()
    assert set(pictures) == {"food/apple", "transportation/car"}
    apple, car = pictures["food/apple"], pictures["transportation/car"]
    assert (apple.title, apple.name, apple.kind, apple.keywords) == ("apple", "apple", "fruit", ("fruit",))
    assert apple.description == "a ripe apple with a leaf"
    assert (car.title, car.name, car.kind) == ("a car", "car", "car")


def test_variants_are_siblings_and_namesakes_of_other_makers_are_not(place: Place) -> None:
    place(PACKAGE, files(
        food__pie=svg(1, "Pie"), food__pie_bw=svg(2, "Pie (B and W)", creator="Bob"),      # same folder and plain title
        party__torte=svg(3, "Torte", creator="Cleo"), food__torte=svg(4, "Torte", creator="Cleo"),     # same maker
        tools__house=svg(5, "House", creator="Dan"), buildings__house=svg(6, "House", creator="Eve"),
    ))
    group = {key: p.group for key, p in found().items()}
    assert group["food/pie"] == group["food/pie_bw"] and group["party/torte"] == group["food/torte"]
    assert group["tools/house"] != group["buildings/house"]
    assert len(set(group.values())) == 4


def test_drawings_that_differ_in_colour_or_side_are_siblings(place: Place) -> None:
    place(PACKAGE, files(
        transport__light_a=svg(1, "Traffic light red"), transport__light_b=svg(2, "Green traffic light"),
        shapes__corner_a=svg(3, "Flourish upper left corner"), shapes__corner_b=svg(4, "Flourish lower corner"),
        transport__car=svg(5, "Red car"), food__red=svg(6, "Red"), food__green=svg(7, "Green"),
    ))
    group = {key: p.group for key, p in found().items()}
    assert group["transport/light_a"] == group["transport/light_b"] != group["transport/car"]
    assert group["shapes/corner_a"] == group["shapes/corner_b"]
    assert len(set(group.values())) == 7 - 2


def test_a_drawing_that_is_a_stamp_too_is_in_the_stamps_split(place: Place) -> None:
    place(PACKAGE, files(recreation__knitting_01=svg(1, "Knitting"), food__pie=svg(3, "Pie")))
    group = {key: p.group for key, p in found().items()}
    assert group == {"recreation/knitting_01": "stamps/hobbies/knitting.svg", "food/pie": "clip_art/food/pie.svg"}


def test_a_countrys_flag_is_in_the_split_of_the_same_flag_in_openmoji(place: Place) -> None:
    place(PACKAGE, files(signs_and_symbols__flags__europe__portugal=svg(1, "Portugal"),
                         signs_and_symbols__flags__america__guam=svg(2, "Guam"),
                         signs_and_symbols__flags__america__texas=svg(3, "Texas")))
    group = {key.rpartition("/")[2]: p.group for key, p in found().items()}
    assert group == {"portugal": "1F1F5-1F1F9", "guam": "1F1EC-1F1FA",
                     "texas": "clip_art/signs_and_symbols/flags/america/texas.svg"}


@pytest.mark.usefixtures("offline_material")
def test_the_keys_of_flags_are_those_of_openmoji() -> None:
    assert flags() and all(flag_key(p.code) == p.key for p in flags())


def test_the_margins_of_the_page_are_cut(place: Place) -> None:
    place(PACKAGE, files(food__apple=svg(1, "Apple")))
    picture = clip_art()[0]
    assert picture.look.box == pytest.approx((60 / 160, 60 / 160, 100 / 160, 100 / 160), abs=0.02)
    assert (picture.raster(64)[..., 3] > 128).mean() > 0.9


def test_every_drawing_is_in_one_split(place: Place) -> None:
    place(PACKAGE, some(80))
    parts = [{p.key for p in clip_art(split)} for split in SPLITS]
    assert all(parts) and sum(map(len, parts)) == 80 == len(set().union(*parts))


@pytest.mark.parametrize("size", [64, 128, 512])
def test_an_item_shows_the_drawing_and_says_its_title(place: Place, size: int) -> None:
    place(PACKAGE, some(30) | files(food__pie=svg(999, "Pie", description="A pie with one slice missing.")))
    split = found()["food/pie"].split
    items = [clip_art_task(split, k, size) for k in range(len(clip_art(split)))]
    pie = next(item for item in items if item.answer == "pie")
    assert pie.references == ("pie", "a pie with one slice missing")
    assert all(i.answer in i.references and i.answer in i.description and not i.question for i in items)
    assert {i.answer for i in items} == {p.title for p in clip_art(split)}
    assert np.array_equal(pie.image, clip_art_task(split, int(pie.id.rpartition("/")[2]), size).image)
    assert pie.image.shape == (size, size, 3)


# --- the package itself, where it was fetched -----------------------------------------------------------------------


@pytest.fixture
def real() -> tuple[ClipArt, ...]:
    try:
        return clip_art()
    except AssetMissing as missing:
        pytest.skip(str(missing))


def test_the_real_clip_art(real: tuple[ClipArt, ...]) -> None:
    assert 1700 <= len(real) <= 2874
    titles = {p.title for p in real}
    assert {"apple juice box", "left hand print", "flag of afghanistan"} <= titles
    assert not {"gramastar", "svg road signs", "aiga symbol signs"} & titles
    assert all(p.title.isascii() and p.title == p.title.lower() and len(p.title) > 2 for p in real)
    assert len({p.look.digest for p in real}) == len(real)
    named = [p for p in real if p.name and p.kind]
    assert len(named) > 250 and {"croissant", "violin", "lighthouse"} <= {p.name for p in named}
    assert sum(1 for p in real if p.description) > 100
