"""KGeography's maps: an XML file of regions with capitals, and a picture in which every region has its own colour.

Only the .kgm files are read to know what there is; a picture is read when its map is first drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from vlm_ablate.errors import DataError
from vlm_ablate.offline.debian.catalogue import folders
from vlm_ablate.offline.debian.map_names import (
    CONTINENT_SPLITS,
    DIRECTIONS,
    DISPUTED,
    NOT_DRAWN,
    area_of,
    capitals_of,
    clean_name,
    is_line,
    is_water,
    plain,
)
from vlm_ablate.offline.pictures import SPLITS, Split, split_of

OUTSIDE, WATER, _LINE = -1, -2, -3
"""Labels of what is no region: neighbours and the paper, water, and (before they are filled) drawn lines."""

_LINE_WIDTH = 4
"""Pixels from the side that a line is filled with its neighbours; thicker ones become `OUTSIDE`."""
_LEAST_DISC, _ROUND = 15, 0.995
"""Pixels across, and the share of its pixels within the circle of its area, from which on a piece is a drawn disc."""
_LARGEST = 4096
"""Pixels a side; the package's largest map is 1357 pixels wide."""
_FETCH_AGAIN = "remove the package's folder and run `vlm-ablate data fetch maps`"

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class MapRegion:
    """A province, state or country."""

    name: str
    """ASCII, without remarks in brackets."""
    capitals: tuple[str, ...]
    """Usually one; two where two towns share the office, or one has two names; none where the map gives none."""
    colour: Rgb
    """In the map's picture."""


@dataclass(frozen=True)
class RegionMap:
    """What a .kgm file says."""

    path: Path
    picture: Path
    area: str
    """The country or continent, e.g. 'Albania' for both 'Albania (Districts)' and 'Albania (Prefectures)'."""
    group: str
    """What decides the split: the area, or the country that the area is a part of."""
    divisions: str
    """What its regions are called, e.g. 'Provinces'; 'Countries' on maps of continents."""
    regions: tuple[MapRegion, ...]
    water: tuple[Rgb, ...]
    lines: tuple[Rgb, ...]

    @property
    def of_countries(self) -> bool:
        """Whether its regions are countries."""
        return self.divisions == "Countries"

    @property
    def split(self) -> Split:
        """All maps of a country and of its provinces belong to one split; continents are dealt out by hand."""
        return CONTINENT_SPLITS.get(self.group) or split_of(f"map-{self.group}")


@dataclass(frozen=True)
class Shape:
    """Where a region lies in its map's picture (pixels)."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""
    area: int
    centroid: tuple[float, float]
    """x, y of the mean pixel; need not lie inside."""
    point: tuple[int, int]
    """x, y of the pixel of the region that is nearest to the centroid."""
    largest_piece: float
    """Share of the area that hangs together; 1 where there are no islands."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The picture of a map as labels, with the lines between regions given to their neighbours."""

    labels: np.ndarray
    """(height, width) int16: number of the region, `OUTSIDE` or `WATER`."""
    shapes: tuple[Shape | None, ...]
    """One a region; None where its colour does not occur."""

    def shape(self, region: int) -> Shape:
        """Where a region lies that is drawn.

        Raises:
            ValueError: its colour does not occur.
        """
        shape = self.shapes[region]
        if shape is None:
            raise ValueError(f"region {region} is not in the map's picture")
        return shape


@lru_cache(maxsize=512)
def read_map(path: Path) -> RegionMap:
    """Read a .kgm file.

    Raises:
        DataError: it is broken; the message names it.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        if "<!ENTITY" in text:  # none is needed, and nested ones would fill the memory
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text)
        title, divisions, file = (_text(root, tag) for tag in ("name", "divisionsName", "mapFile"))
        if Path(file).name != file:
            raise ValueError(f"its picture {file!r} is not a plain file name")
        entries = [(_text(d, "name"), _text(d, "ignore", ""), _text(d, "capital", ""), _colour(d))
                   for d in root.iter("division")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: not a map that can be read ({error})", hint=_FETCH_AGAIN) from error
    area, group = area_of(title)
    # A pattern of its own ("The %1 district has its headquarters at...") says that these are no capitals.
    has_capitals = root.find("divisionToCapitalPattern") is None
    ignored = [(name, colour) for name, ignore, _, colour in entries if ignore == "yes"]
    regions = tuple(MapRegion(clean_name(name), capitals_of(capital) if has_capitals else (), colour)
                    for name, ignore, capital, colour in entries if ignore != "yes")
    return RegionMap(path, path.with_name(file), area, group, divisions, regions,
                     tuple(c for n, c in ignored if is_water(n)), tuple(c for n, c in ignored if is_line(n)))


def _text(element: ElementTree.Element, tag: str, default: str | None = None) -> str:
    value = (element.findtext(tag) or "").strip() or default
    if value is None:
        raise ValueError(f"<{element.tag}> has no <{tag}>")
    return value


def _colour(division: ElementTree.Element) -> Rgb:
    red, green, blue = (int(_text(division, f"color/{k}")) for k in ("red", "green", "blue"))
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"colour {red}, {green}, {blue} is not of 0..255")
    return red, green, blue


@lru_cache(maxsize=8)
def _maps_in(folder: Path) -> tuple[RegionMap, ...]:
    return tuple(read_map(path) for path in sorted((folder / "usr/share/kgeography").glob("*.kgm")))


def region_maps() -> tuple[RegionMap, ...]:
    """All maps, by file name.

    Raises:
        AssetMissing: the collection `maps` was not fetched.
        DataError: a .kgm file is broken.
    """
    return tuple(m for folder in folders("maps") for m in _maps_in(folder))


@lru_cache(maxsize=24)
def _drawn_in(folder: Path, split: Split) -> tuple[RegionMap, ...]:
    return tuple(m for m in _maps_in(folder) if m.split == split and m.area not in NOT_DRAWN and m.regions)


def drawn_maps(split: Split) -> tuple[RegionMap, ...]:
    """The maps of a split that pictures are made of (see `NOT_DRAWN`).

    Raises:
        AssetMissing: the collection `maps` was not fetched.
        DataError: a .kgm file is broken.
    """
    return tuple(m for folder in folders("maps") for m in _drawn_in(folder, split))


def country_names() -> frozenset[str]:
    """The countries of all maps of continents and of the world.

    Raises:
        AssetMissing: the collection `maps` was not fetched.
    """
    return frozenset(region.name for m in region_maps() if m.of_countries for region in m.regions)


def held_back(region_map: RegionMap) -> frozenset[str]:
    """Countries on this map of a continent that are left to a continent of a later split (Turkey: Europe, Asia)."""
    if not region_map.of_countries:
        return frozenset()
    later = SPLITS[SPLITS.index(region_map.split) + 1 :]
    return frozenset(r.name for split in later for m in drawn_maps(split) if m.of_countries for r in m.regions)


def capital_to_ask(region: MapRegion) -> tuple[str, ...]:
    """A region's capitals, first the one to answer.

    None where its name gives them away (Berlin, Sao Paulo State, Vinnyts'ka oblast'), says no more than a direction
    (Central, North West: many countries have such a region, and what is asked is what is known of the name), or where
    people differ on the answer.
    """
    if set(region.name.lower().replace("-", " ").split()) <= DIRECTIONS or region.name in DISPUTED:
        return ()
    told = any(_tells(plain(region.name), plain(capital)) for capital in region.capitals)
    return () if told or len(region.capitals) > 2 else region.capitals


def _tells(name: str, capital: str) -> bool:
    """Whether a name holds the other, or begins with most of it."""
    return capital in name or name in capital or name.startswith(capital[: int(0.6 * len(capital)) + 1])


@lru_cache(maxsize=160)
def geometry(region_map: RegionMap) -> Geometry:
    """Labels and shapes of a map; about 10 ms, kept for as many maps as there are (300 kB each).

    Raises:
        DataError: the picture is missing or broken; the message names it.
    """
    try:
        with Image.open(region_map.picture) as image:
            if max(image.size) > _LARGEST:
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
            index, palette = _indexed(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{region_map.picture}: not a picture that can be read ({error})", hint=_FETCH_AGAIN) from error
    meaning = dict.fromkeys(region_map.water, WATER) | dict.fromkeys(region_map.lines, _LINE)
    meaning |= {region.colour: k for k, region in enumerate(region_map.regions)}
    table = np.array([meaning.get(colour, OUTSIDE) for colour in palette], np.int16)
    labels = _without_lines(table[index])
    shapes = _shapes(labels, len(region_map.regions))
    labels.setflags(write=False)
    return Geometry(labels, shapes)


def _indexed(image: Image.Image) -> tuple[np.ndarray, list[Rgb]]:
    """(height, width) indices and the colours that they stand for."""
    if image.mode == "P":
        flat = image.getpalette("RGB") or []
        flat += [0] * (768 - len(flat))
        return np.asarray(image), [(flat[k], flat[k + 1], flat[k + 2]) for k in range(0, 768, 3)]
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    values, index = np.unique(codes, return_inverse=True)
    return index.reshape(codes.shape), [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values]


def _without_lines(labels: np.ndarray) -> np.ndarray:
    """Each pixel of a line takes the label of a neighbour; so do those behind it, `_LINE_WIDTH` pixels deep."""
    labels, (y, x) = labels.copy(), np.nonzero(labels == _LINE)
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)) * _LINE_WIDTH:
        labels[y, x] = labels[np.clip(y + down, 0, labels.shape[0] - 1), np.clip(x + right, 0, labels.shape[1] - 1)]
        left = labels[y, x] == _LINE
        y, x = y[left], x[left]
    labels[labels == _LINE] = OUTSIDE
    return labels


def _shapes(labels: np.ndarray, count: int) -> tuple[Shape | None, ...]:
    """Measure the regions; what only points at a region (see `_callouts`) is made `OUTSIDE` in `labels`."""
    from scipy import ndimage

    found: list[Shape | None] = []
    for k, box in enumerate(ndimage.find_objects(np.maximum(labels + 1, 0), count)):
        if box is None:
            found.append(None)
            continue
        window = labels[box]
        pieces = ndimage.label(window == k)[0]
        areas = np.bincount(pieces.ravel())[1:]
        for piece in _callouts(pieces, areas):
            window[pieces == piece] = OUTSIDE
            areas[piece - 1] = 0
        y, x = np.nonzero(window == k)
        y, x = y + box[0].start, x + box[1].start
        near = np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
        found.append(Shape(
            (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1), len(y),
            (float(x.mean()), float(y.mean())), (int(x[near]), int(y[near])), float(areas.max() / len(y)),
        ))
    return tuple(found)


def _callouts(pieces: np.ndarray, areas: np.ndarray) -> list[int]:
    """Numbers of the pieces that are no land: discs beside small regions to click on, and the dots that lead there."""
    from scipy import ndimage

    if areas.max() < _LEAST_DISC**2 / 2 or len(areas) == 1:
        return []
    discs = []
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        height, width = (s.stop - s.start for s in box)
        if min(height, width) >= _LEAST_DISC and abs(height - width) <= 3:
            y, x = np.nonzero(pieces[box] == number)
            reach = (len(y) / np.pi) ** 0.5 + 0.5
            if np.mean((y - y.mean()) ** 2 + (x - x.mean()) ** 2 <= reach**2) > _ROUND:
                discs.append(number)
    dots = [number for number, area in enumerate(areas, 1) if area <= 8 and number not in discs] if discs else []
    return discs if len(discs) + len(dots) == len(areas) else discs + dots
