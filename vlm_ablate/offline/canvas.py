"""Drawing: backgrounds, pasted pictures, real fonts, and the boxes of what was drawn."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_ablate.offline.item import Region
from vlm_ablate.offline.pictures import Drawable

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (214, 69, 65), "blue": (66, 114, 215), "green": (76, 165, 88), "yellow": (240, 206, 80),
    "white": (247, 247, 247), "black": (38, 38, 42), "pink": (242, 160, 190), "brown": (140, 98, 68),
}

GRID = 8
"""Pixels; drawings and letters of the small pictures stand on multiples of it."""

_MONOSPACED = ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique")
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold")


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's DejaVu fonts at `size` pixels."""
    import importlib.util

    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None  # the package depends on it
    folder = Path(spec.origin).parent / "mpl-data/fonts/ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def any_font(rng: random.Random, size: int) -> ImageFont.FreeTypeFont:
    """A random face at a fixed size."""
    return font(rng.choice(_FONTS), size)


class Canvas:
    """A picture in the making, and the regions drawn so far."""

    def __init__(self, width: int, height: int, colour: Rgb, rng: random.Random) -> None:
        shade = tuple(min(255, max(0, c + rng.randint(-10, 10))) for c in colour)
        self.image = Image.new("RGB", (width, height), shade)
        self.draw = ImageDraw.Draw(self.image)
        self.rng = rng
        self.regions: list[Region] = []

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def paste(self, picture: Drawable, left: int, top: int, side: int) -> None:
        """Draw a picture into a square of `side` pixels."""
        rgba = Image.fromarray(picture.raster(side))
        self.image.paste(rgba, (left, top), rgba)
        self.regions.append(Region(picture.name, (left, top, left + side, top + side)))

    def paste_array(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Draw a uint8 (height, width, 3) array."""
        self.image.paste(Image.fromarray(pixels), (left, top))

    def text(self, text: str, left: float, top: float, face: ImageFont.FreeTypeFont, fill: Rgb) -> None:
        """Write text with its top left corner there. A number has a region for each digit, a word one for all."""
        self.draw.text((left, top), text, font=face, fill=fill)
        parts = list(text) if text.isdigit() else [text]
        for k, part in enumerate(parts):
            start = left + (face.getlength("".join(parts[:k])) if k else 0)
            x0, y0, x1, y1 = self.draw.textbbox((start, top), part, font=face)
            self.regions.append(Region(part, (int(x0), int(y0), int(x1) + 1, int(y1) + 1)))

    def pixels(self) -> np.ndarray:
        """(height, width, 3) uint8."""
        return np.asarray(self.image)


def spaced_word(canvas: Canvas, word: str, box: tuple[int, int, int, int], ink: Rgb) -> None:
    """Write a word, a letter every `GRID` pixels, in a random monospaced face at a random place of `box` (pixels).

    `box` is left, top, right, bottom; the letters are 16 pixels tall with their ascenders and descenders.
    """
    rng, (x0, y0, x1, y1) = canvas.rng, box
    left = x0 + GRID * rng.randint(0, max(0, (x1 - x0) // GRID - len(word)))
    top = y0 + GRID * rng.randint(0, max(0, (y1 - y0) // GRID - 2))
    face = font(rng.choice(_MONOSPACED), 13)
    for k, letter in enumerate(word):
        canvas.draw.text((left + k * GRID + GRID / 2, top + 12), letter, font=face, fill=ink, anchor="ms")
    canvas.regions.append(Region(word, (left, top, left + len(word) * GRID, top + 2 * GRID)))


def fitting_font(rng: random.Random, text: str, width: int, largest: int, least: int = 8) -> ImageFont.FreeTypeFont:
    """A random face at the largest size (at most `largest`) at which `text` is no wider than `width` pixels."""
    name = rng.choice(_FONTS)
    for size in range(largest, least, -1):
        if font(name, size).getlength(text) <= width:
            return font(name, size)
    return font("DejaVuSans", least)


def grid_square(
    rng: random.Random, box: tuple[int, int, int, int], shares: tuple[float, ...]
) -> tuple[int, int, int]:
    """A random square inside `box` (left, top, width, height): (left, top, side), on the box's grid of `GRID` pixels.

    Its side is one of `shares` of the box's shorter side, which is at least `GRID`. Small encoders learn what falls on
    a grid far sooner.
    """
    left, top, width, height = box
    shorter = min(width, height)
    side = max(GRID, min(round(rng.choice(shares) * shorter / GRID), shorter // GRID) * GRID)
    across, down = (width - side) // GRID, (height - side) // GRID
    return left + GRID * rng.randint(0, across), top + GRID * rng.randint(0, down), side


def ink_on(colour: Rgb) -> Rgb:
    """Black or white, whichever can be read on `colour`."""
    return (20, 20, 20) if sum(colour) > 380 else (250, 250, 250)
