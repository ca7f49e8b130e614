"""Drawing maps: a square window on a map in muted colours, some regions in bright ones, names that can be read."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageFont

from vlm_ablate.offline.canvas import COLOURS, Canvas, fitting_font, font
from vlm_ablate.offline.debian.maps import OUTSIDE, WATER, RegionMap, geometry
from vlm_ablate.offline.item import Region

BRIGHT = tuple(name for name in COLOURS if name not in ("white", "black"))
"""Colours of the regions that questions are about."""

_LAND = ((208, 206, 199), (196, 194, 188))
_OUTSIDE, _WATER, _BORDER = (232, 231, 227), (214, 222, 229), (130, 130, 128)
_PLATE, _INK = (252, 252, 250), (20, 20, 20)
_LABEL_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold")
_LEAST_LETTERS = 8
"""Pixels of the smallest face that is written."""

_LEAST_VISIBLE = 45
"""Pixels of a coloured region that its label leaves free."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class View:
    """What a square window (map pixels; it may reach over the map's edge) shows on a picture of a size."""

    region_map: RegionMap
    left: float
    top: float
    side: float
    size: int
    strip: int = 0
    """Rows above the map that are kept free for a title; the window's lower part is cut off by as much."""

    def labels(self, fine: int = 1) -> np.ndarray:
        """Numbers of the regions, (fine * (size - strip), fine * size) int16."""
        source = geometry(self.region_map).labels
        step = self.side / (fine * self.size)
        x, y = (np.floor(start + (np.arange(fine * count) + 0.5) * step).astype(int)
                for start, count in ((self.left, self.size), (self.top, self.size - self.strip)))
        seen: np.ndarray = source[np.clip(y, 0, source.shape[0] - 1)[:, None], np.clip(x, 0, source.shape[1] - 1)]
        seen[(y < 0) | (y >= source.shape[0]), :] = OUTSIDE
        seen[:, (x < 0) | (x >= source.shape[1])] = OUTSIDE
        return seen

    @cached_property
    def seen(self) -> np.ndarray:
        """Numbers of the regions, a pixel of the picture each; `OUTSIDE` in the title's strip. (size, size) int16."""
        strip = np.full((self.strip, self.size), OUTSIDE, np.int16)
        return np.concatenate([strip, self.labels()])

    @cached_property
    def _patches(self) -> dict[int, Patch | None]:
        return {}

    def patch(self, k: int) -> Patch | None:
        """Where region number `k` is in the picture; None where it is not."""
        if k not in self._patches:
            self._patches[k] = self._measure(k)
        return self._patches[k]

    def _measure(self, k: int) -> Patch | None:
        y, x = np.nonzero(self.seen == k)
        if not len(y):
            return None
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        tips = (y[x == x.min()].mean(), x[y == y.min()].mean(), y[x == x.max()].mean(), x[y == y.max()].mean())
        return Patch(box, len(y), (float(x.mean()), float(y.mean())), tuple(float(tip) for tip in tips))


@dataclass(frozen=True)
class Patch:
    """A region as seen: pixels of the picture."""

    box: Box
    area: int
    centroid: tuple[float, float]
    """x, y."""
    tips: tuple[float, ...]
    """y of the leftmost pixels, x of the topmost, y of the rightmost, x of the lowest."""


def draw_map(view: View, colours: dict[int, str], rng: random.Random) -> Canvas:
    """The window with the regions of `colours` (number -> name) in these; every other region is grey."""
    canvas = Canvas(view.size, view.size, _PLATE, rng)
    fine = 2 if view.size <= 256 else 1
    seen = view.labels(fine)
    # Few colours, so an image with a palette: land, outside, water, border, then the bright ones.
    palette = [*rng.choice(_LAND), *_OUTSIDE, *_WATER, *_BORDER]
    entry = np.zeros(len(view.region_map.regions) + 2, np.uint8)  # OUTSIDE and WATER are -1 and -2
    entry[OUTSIDE], entry[WATER] = 1, 2
    for number, (k, name) in enumerate(colours.items(), 4):
        entry[k] = number
        palette += [min(255, max(0, c + rng.randint(-8, 8))) for c in COLOURS[name]]
    indexed = entry[seen]
    indexed[_borders(seen)] = 3
    image = Image.fromarray(indexed)
    image.putpalette(palette)
    pixels = np.asarray(image.convert("RGB").reduce(fine))
    canvas.paste_array(pixels, 0, view.strip)
    for k, name in colours.items():
        patch = view.patch(k)
        if patch:
            canvas.regions.append(Region(f"{name} region", patch.box))
    return canvas


def _borders(seen: np.ndarray) -> np.ndarray:
    """Pixels on both sides of a line between two regions, or of a coast; (height, width) bool."""
    edge = np.zeros(seen.shape, bool)
    for axis in (0, 1):
        a, b = (seen[:-1], seen[1:]) if axis == 0 else (seen[:, :-1], seen[:, 1:])
        differ = (a != b) & ((a >= 0) | (b >= 0))
        first, second = (edge[:-1], edge[1:]) if axis == 0 else (edge[:, :-1], edge[:, 1:])
        first |= differ
        second |= differ
    return edge


def strip_height(size: int) -> int:
    """Rows that a title takes of a picture."""
    return max(12, size // 9)


def title_font(text: str, size: int, rng: random.Random) -> ImageFont.FreeTypeFont | None:
    """A face in which a title fits the picture's width; None where none does."""
    face = fitting_font(rng, text, size - 4, strip_height(size) - 3, _LEAST_LETTERS)
    return face if face.getlength(text) <= size - 4 else None


def can_be_written(text: str, size: int) -> bool:
    """Whether the smallest face fits a label into a picture's width."""
    return font("DejaVuSans", _LEAST_LETTERS).getlength(text) <= size - 8


def write_title(canvas: Canvas, text: str, face: ImageFont.FreeTypeFont) -> None:
    """Write into the strip, in its middle."""
    x0, y0, x1, y1 = face.getbbox(text)
    width, height = canvas.size[0], strip_height(canvas.size[0])
    canvas.text(text, max(1, (width - (x1 - x0)) // 2) - x0, max(1, (height - (y1 - y0)) // 2) - y0, face, _INK)


@dataclass(frozen=True)
class Label:
    """A name, where its letters stand, and the face that they are written in."""

    text: str
    box: Box
    face: ImageFont.FreeTypeFont

    @property
    def plate(self) -> Box:
        """The light board that it is written on."""
        return self.box[0] - 2, self.box[1] - 1, self.box[2] + 2, self.box[3] + 1


def place_labels(view: View, texts: dict[int, str], rng: random.Random, coloured: set[int]) -> list[Label] | None:
    """A place for the name of each region, on it or at one of its ends; None where one cannot be placed.

    A board lies inside the picture, reaches into its own region and hides at most 45 % of it, hides no part of another
    coloured region and touches no other board. One that does not stand on its region for the better part keeps away
    from the other coloured ones.
    """
    placed: list[Label] = []
    name = rng.choice(_LABEL_FONTS)
    largest = max(_LEAST_LETTERS + 1, round(view.size / 11))
    # The largest region first would leave small ones without a place.
    patches = {k: patch for k in texts if (patch := view.patch(k))}
    if len(patches) < len(texts):
        return None
    for k, patch in sorted(patches.items(), key=lambda item: item[1].area):
        label = next((
            label for points in range(largest, _LEAST_LETTERS - 1, -2)
            for label in _places(texts[k], patch, font(name, points))
            if _fits(label, k, view, placed, coloured, patch)
        ), None)
        if label is None:
            return None
        placed.append(label)
    return placed


def _places(text: str, patch: Patch, face: ImageFont.FreeTypeFont) -> list[Label]:
    """On the region's middle, then at its ends, a pixel or two inside."""
    x0, y0, x1, y1 = face.getbbox(text)
    width, height = int(x1 - x0), int(y1 - y0)
    left, top, right, bottom = patch.box
    x, y = patch.centroid
    middles = [
        (x, y), (x, y - 0.7 * height), (x, y + 0.7 * height), (patch.tips[3], bottom + height / 2 - 1),
        (patch.tips[1], top - height / 2 + 1), (right + width / 2, patch.tips[2]), (left - width / 2, patch.tips[0]),
    ]
    corners = [(round(mx - width / 2), round(my - height / 2)) for mx, my in middles]
    return [Label(text, (a, b, a + width, b + height), face) for a, b in corners]


def _fits(label: Label, k: int, view: View, placed: list[Label], coloured: set[int], patch: Patch) -> bool:
    a, b, c, d = label.plate
    if a < 1 or b < view.strip + 1 or c > view.size - 1 or d > view.size - 1:
        return False
    if any(a < q[2] + 1 and q[0] - 1 < c and b < q[3] + 1 and q[1] - 1 < d for q in (p.plate for p in placed)):
        return False
    under = view.seen[b:d, a:c]
    others = coloured - {k}
    hidden = int(np.count_nonzero(under == k))
    if patch.area - hidden < max(0.55 * patch.area, _LEAST_VISIBLE, 0.004 * view.size**2):
        return False
    if any((under == other).any() for other in others):
        return False
    if hidden >= 0.5 * under.size:
        return True
    far = max(4, view.size // 16)
    around = view.seen[max(0, b - far) : d + far, max(0, a - far) : c + far]
    return hidden >= max(3, view.size // 32) and not any((around == other).any() for other in others)


def write_labels(canvas: Canvas, labels: list[Label]) -> None:
    """Write names on light boards."""
    for label in labels:
        left, top, right, bottom = label.plate
        canvas.draw.rectangle((left, top, right - 1, bottom - 1), fill=_PLATE)
        x0, y0, *_ = label.face.getbbox(label.text)
        canvas.text(label.text, label.box[0] - x0, label.box[1] - y0, label.face, _INK)
