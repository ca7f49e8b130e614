"""Maps: what is read of them, what is left out, where regions lie, and which maps stand in which split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.offline.conftest import Place
from tests.offline.drawn_maps import (
    ABROAD,
    CELL,
    FOLDER,
    FRONTIER,
    SEA,
    Division,
    colour_of,
    grid,
    grid_map,
    kgm,
    picture,
    word,
    world,
)
from tests.offline.fetched import needs
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.offline.debian.map_names import area_of, capitals_of, clean_name
from vlm_ablate.offline.debian.maps import (
    OUTSIDE,
    WATER,
    MapRegion,
    RegionMap,
    capital_to_ask,
    drawn_maps,
    geometry,
    held_back,
    region_maps,
)
from vlm_ablate.offline.pictures import SPLITS

PACKAGE = "kgeography-data"


def only_map() -> RegionMap:
    (found,) = region_maps()
    return found


def drawn(place: Place, pixels: np.ndarray, divisions: list[Division], *, palette: bool = True) -> RegionMap:
    """One map of these pixels."""
    place(PACKAGE, {f"{FOLDER}/a.kgm": kgm("A", "a.png", divisions),
                    f"{FOLDER}/a.png": picture(pixels, palette=palette)})
    return only_map()


def test_without_the_package_it_says_how_to_get_it(place: Place) -> None:
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch maps"):
        region_maps()


def test_regions_have_names_capitals_and_colours_and_what_is_no_region_is_left_out(place: Place) -> None:
    place(PACKAGE, {f"{FOLDER}/poland.kgm": kgm("Poland (Provinces)", "poland.png", [
        ("Frontier", "yes", "", FRONTIER), ("Baltic Sea", "yes", "", SEA), ("Not Poland", "yes", "", ABROAD),
        ("Łódź", "", "Łódź", (1, 1, 1)), ("Świętokrzyskie", "", "Kielce", (2, 2, 2)),
        ("The City", "allowClickMode", "", (3, 3, 3)), ("Lubusz", "", "Zielona Góra, Gorzów", (4, 4, 4)),
    ])})
    found = only_map()
    assert (found.area, found.group, found.divisions, found.of_countries) == ("Poland", "Poland", "Provinces", False)
    assert found.regions == (
        MapRegion("Lodz", ("Lodz",), (1, 1, 1)), MapRegion("Swietokrzyskie", ("Kielce",), (2, 2, 2)),
        MapRegion("City", (), (3, 3, 3)), MapRegion("Lubusz", ("Zielona Gora", "Gorzow"), (4, 4, 4)),
    )
    assert (found.lines, found.water) == ((FRONTIER,), (SEA,))
    # A capital that the region's name gives away is not asked for.
    assert [capital_to_ask(r) for r in found.regions] == [(), ("Kielce",), (), ("Zielona Gora", "Gorzow")]


@pytest.mark.parametrize(("name", "asked"), [
    ("Western", False), ("North West", False), ("North-Western", False), ("Plateau central", False),
    ("Western Cape", True), ("Upper Austria", True), ("Southern Denmark", True),
])
def test_capitals_are_not_asked_of_names_that_many_countries_have(name: str, asked: bool) -> None:
    assert capital_to_ask(MapRegion(name, ("Kandy",), (1, 1, 1))) == (("Kandy",) if asked else ())


@pytest.mark.parametrize(("name", "capital", "asked"), [
    ("Vinnyts'ka oblast'", "Vinnytsya", False), ("Tunisia", "Tunis", False), ("Algeria", "Algiers", True),
    ("Israel", "Jerusalem", False), ("Japan", "Tokyo", True),
])
def test_capitals_are_asked_where_the_name_does_not_tell_them_and_people_agree(
    name: str, capital: str, asked: bool
) -> None:
    assert capital_to_ask(MapRegion(name, (capital,), (1, 1, 1))) == ((capital,) if asked else ())


def test_summits_and_headquarters_are_no_capitals(place: Place) -> None:
    pattern = "<divisionToCapitalPattern>What is the highest summit of %1?</divisionToCapitalPattern>"
    place(PACKAGE, {f"{FOLDER}/a.kgm": kgm("A", "a.png", [("Africa", "", "Kilimanjaro", (1, 1, 1))], extra=pattern)})
    assert only_map().regions[0].capitals == ()


@pytest.mark.parametrize(("text", "name"), [
    ("Réunion (France)", "Reunion"), ("Negros Occidental [2]", "Negros Occidental"), ("Kutch / Kachchh", "Kutch"),
    ("Storstrøm", "Storstrom"), ("Diyarbakır", "Diyarbakir"), (" Hooghly ", "Hooghly"), ("The Gambia", "Gambia"),
    ("i18nc(\"name of a state\", \"Bavaria\")", "Bavaria"), ("i18n(\"Hesse\")", "Hesse"),
    ("Republic of China (Taiwan)", "Taiwan"), ("The United States of America", "United States"),
    ("Sauðárkrókur", "Saudarkrokur"), ("Buenos Aires(city)", "Buenos Aires"),
])
def test_names_lose_accents_remarks_and_wrappers(text: str, name: str) -> None:
    assert clean_name(text) == name


@pytest.mark.parametrize(("text", "towns"), [
    ("Napier/Hastings", ("Napier", "Hastings")), ("Yangon (former Rangoon)", ("Yangon",)),
    ("Washington D.C.", ("Washington D.C.", "Washington")), ("(Bucharest municipality)", ()), ("", ()),
    ("Pretoria, Bloemfontein and Cape Town", ("Pretoria", "Bloemfontein", "Cape Town")),
])
def test_capitals_are_towns(text: str, towns: tuple[str, ...]) -> None:
    assert capitals_of(text) == towns


@pytest.mark.parametrize(("title", "area", "group"), [
    ("Albania (Districts)", "Albania", "Albania"), ("Italy by Provinces", "Italy", "Italy"),
    ("Portugal Provinces (traditional)", "Portugal", "Portugal"), ("Portugal Districts", "Portugal", "Portugal"),
    ("Denmark (Counties) (1970-2006)", "Denmark", "Denmark"), ("Latvia Districts (Pre 2009)", "Latvia", "Latvia"),
    ("Republic Of Ireland", "Ireland", "Ireland"), ("Virginia (USA)", "Virginia", "United States"),
    ("USA", "United States", "United States"), ("West Bengal", "West Bengal", "India"),
    ("United Arab Emirates", "United Arab Emirates", "United Arab Emirates"),
    ("The Netherlands", "Netherlands", "Netherlands"),
])
def test_maps_of_one_country_share_a_group(title: str, area: str, group: str) -> None:
    assert area_of(title) == (area, group)


GOOD = kgm("A", "a.png", [("B", "", "", (1, 1, 1))]).decode()


@pytest.mark.parametrize(("text", "word"), [
    (GOOD[:-20], "no element|mismatched|unclosed"),
    (GOOD.replace("<!DOCTYPE kgeographyMap>", '<!DOCTYPE kgeographyMap [<!ENTITY a "aaaa">]>'), "entities"),
    (GOOD.replace("<mapFile>a.png</mapFile>", ""), "mapFile"),
    (GOOD.replace("a.png", "../../secret.png"), "not a plain file name"),
    (GOOD.replace("<red>1</red>", "<red>999</red>"), "999"),
    (GOOD.replace("<red>1</red>", "<red>one</red>"), "one"),
    (GOOD.replace("<blue>1</blue>", ""), "color/blue"),
    ("", "no element"),
])
def test_a_broken_map_is_one_error_that_names_it(place: Place, text: str, word: str) -> None:
    place(PACKAGE, {f"{FOLDER}/a.kgm": text.encode()})
    with pytest.raises(DataError, match=word) as caught:
        region_maps()
    assert f"{FOLDER}/a.kgm" in str(caught.value) and "data fetch maps" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no picture", picture(grid(1, 3))[:60], picture(grid(9, 9))[:-300]])
def test_a_broken_picture_is_one_error_that_names_it(place: Place, content: bytes | None) -> None:
    files = grid_map("a", "A", ["B", "C", "D"])
    files.pop(f"{FOLDER}/a.png")
    place(PACKAGE, files | ({f"{FOLDER}/a.png": content} if content is not None else {}))
    with pytest.raises(DataError, match=f"{FOLDER}/a.png"):
        geometry(only_map())


@pytest.mark.parametrize("palette", [True, False])
def test_regions_lie_where_their_colour_is_and_take_the_lines_between_them(place: Place, palette: bool) -> None:
    names = [word(k) for k in range(6)]
    divisions: list[Division] = [("Frontier", "yes", "", FRONTIER), ("Water", "yes", "", SEA)]
    divisions += [(n, "", "", colour_of(k)) for k, n in enumerate(names)]
    g = geometry(drawn(place, grid(2, 3), divisions, palette=palette))
    assert g.labels[0, 0] == WATER and OUTSIDE not in g.labels
    for k, shape in enumerate(g.shapes):
        left, top = 10 + k % 3 * CELL, 10 + k // 3 * CELL
        assert all(abs(a - b) <= 1 for a, b in zip(shape.box, (left, top, left + CELL, top + CELL), strict=True))
        assert abs(shape.centroid[0] - (left + 19.5)) < 1 and abs(shape.centroid[1] - (top + 19.5)) < 1
        assert shape.area == np.count_nonzero(g.labels == k) >= (CELL - 2) ** 2 and shape.largest_piece == 1


def test_the_point_of_a_bent_region_lies_inside_it_though_its_centroid_does_not(place: Place) -> None:
    pixels = np.full((60, 60, 3), ABROAD, np.uint8)
    pixels[5:55, 5:55] = (1, 1, 1)
    pixels[5:45, 15:45] = (2, 2, 2)
    g = geometry(drawn(place, pixels, [("U", "", "", (1, 1, 1)), ("Gone", "", "", (3, 3, 3))]))
    shape, gone = g.shapes
    assert g.labels[round(shape.centroid[1]), round(shape.centroid[0])] == OUTSIDE
    assert g.labels[shape.point[1], shape.point[0]] == 0
    assert gone is None


def test_islands_are_told_and_discs_that_point_at_a_region_are_no_land(place: Place) -> None:
    y, x = np.mgrid[:100, :100]
    pixels = np.full((100, 100, 3), ABROAD, np.uint8)
    pixels[10:20, 10:20] = (1, 1, 1)  # a small state,
    pixels[(y - 70) ** 2 + (x - 70) ** 2 <= 14**2] = (1, 1, 1)  # its disc,
    for k in range(20, 60, 2):
        pixels[k, k] = (1, 1, 1)  # and the dotted line between them
    pixels[80:90, 10:20] = pixels[80:85, 30:40] = (2, 2, 2)
    divisions: list[Division] = [("State", "", "", (1, 1, 1)), ("Islands", "", "", (2, 2, 2))]
    state, islands = geometry(drawn(place, pixels, divisions)).shapes
    assert (state.box, state.area) == ((10, 10, 20, 20), 100)
    assert islands.largest_piece == pytest.approx(100 / 150)


def test_caches_are_of_a_home(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(PACKAGE, grid_map("a", "A", ["B", "C", "D"]))
    assert [m.area for m in region_maps()] == ["A"]
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "other"))
    with pytest.raises(AssetMissing):
        region_maps()


def test_a_country_left_to_a_later_split_is_held_back(place: Place) -> None:
    place(PACKAGE, world())
    africa, asia, south = (next(m for m in region_maps() if m.area == a) for a in ("Africa", "Asia", "South America"))
    assert (africa.split, south.split, asia.split) == ("train", "tune", "report")
    assert {r.name for r in africa.regions} & held_back(africa) == {"Land I"}
    assert {r.name for r in south.regions} & held_back(south) == {"Land P", "Land Q"}
    assert not held_back(asia)


@needs("maps")
class TestRealMaps:
    def test_all_maps_are_read(self) -> None:
        maps = region_maps()
        regions = [r for m in maps for r in m.regions]
        assert len(maps) >= 150 and len(regions) > 4000 and sum(bool(r.capitals) for r in regions) > 2800
        assert all(r.name.isascii() and r.name.strip() == r.name and "(" not in r.name for r in regions)
        assert all(not r.name.startswith("Not ") and "Frontier" not in r.name for r in regions)
        known = {(m.area, r.name): r.capitals for m in maps for r in m.regions}
        assert known["Germany", "Bavaria"] == ("Munich",) and known["Africa", "Kenya"] == ("Nairobi",)

    def test_every_region_is_in_its_picture_and_its_point_inside_it(self) -> None:
        for region_map in region_maps()[::6]:
            g = geometry(region_map)
            for k, shape in enumerate(g.shapes):
                assert shape is not None and g.labels[shape.point[1], shape.point[0]] == k, region_map.regions[k]

    def test_splits_share_no_country(self) -> None:
        groups = {split: {m.group for m in drawn_maps(split)} for split in SPLITS}
        counts = [len(drawn_maps(split)) for split in SPLITS]
        assert counts[0] > 70 and counts[1] > 8 and counts[2] > 35, counts
        assert not (groups["train"] & groups["tune"] | groups["train"] & groups["report"]
                    | groups["tune"] & groups["report"])
        assert all(sum(len(m.regions) for m in drawn_maps(split) if m.of_countries) > 10 for split in SPLITS)

    def test_no_two_maps_of_two_splits_show_the_same_regions(self) -> None:
        names = {m: {r.name for r in m.regions} - held_back(m) for split in SPLITS for m in drawn_maps(split)}
        for a in names:
            for b in names:
                # 'Central', 'Southern' and the like name provinces of many countries.
                assert a.split == b.split or len(names[a] & names[b]) <= 2, (a.path.stem, b.path.stem)
