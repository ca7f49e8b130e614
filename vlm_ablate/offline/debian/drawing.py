"""Pictures that are files, PNG or SVG: what is to be seen in each, drawn at any size without its empty margins."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vlm_ablate.errors import DataError
from vlm_ablate.offline.canvas import COLOURS, font
from vlm_ablate.offline.debian.svg import svg_to_png
from vlm_ablate.offline.pictures import Split, split_of

_LOOK_WIDTH = 96
_SLIMMEST = 8
"""Pictures more than that many times longer than wide are a line at small sizes."""

_LEAST_INK = 0.04
"""Share of the box (of what is drawn) that is covered; hairlines cover less and vanish at small sizes."""

_LEAST_BOX = 0.08
"""Longer side of what is drawn, as a share of the page's; less than that is a speck off the page."""

_MOST_PIXELS = 2**26
"""Of a page as it is drawn; more of it could not be seen at the sizes that are asked for."""

_THUMB = 8
_CACHED_SIDE = 128
"""Larger drawings are not kept in memory: they are few, and drawing one takes some milliseconds."""


@dataclass(frozen=True)
class Look:
    """What is to be seen in a file."""

    digest: str
    """SHA-256 of the file."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of what is drawn, as shares of the page."""
    aspect: float
    """Height of the page over its width."""
    grounds: tuple[str, ...]
    """The colours on which it can be seen."""
    thumb: str
    """(8, 8, 3) uint8 on grey, base64; siblings are found by it."""

    def thumbnail(self) -> np.ndarray:
        """(192,) float32 in [0, 255]."""
        return np.frombuffer(base64.b64decode(self.thumb), np.uint8).astype(np.float32)


@dataclass(frozen=True)
class Drawing:
    """One picture with words."""

    key: str
    """Path below its collection's folder."""
    group: str
    """Key of the first of its siblings; all of them belong to one split."""
    path: Path
    look: Look
    name: str
    """What it shows, short enough for an answer: 'barn owl'; '' where its words are more than a name."""
    kind: str
    """'bird'; '' where none is known."""

    @property
    def split(self) -> Split:
        """The split that this picture and its siblings belong to: 60 % train, 10 % tune, 30 % report."""
        return split_of(self.group)

    def raster(self, size: int) -> np.ndarray:
        """The drawing without its margins, centred in uint8 RGBA of shape (size, size, 4)."""
        draw = _kept if size <= _CACHED_SIDE else _drawn
        return draw(self.path, self.look.box, self.look.aspect, size)


def look_at(path: Path) -> Look | None:
    """What is to be seen in a file; None where it cannot be drawn, or next to nothing is there (5 ms)."""
    data = path.read_bytes()
    try:
        page = _page(path, data, _LOOK_WIDTH)
    except (ValueError, OSError):
        return None
    alpha = np.asarray(page)[..., 3] > 40
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return None
    height, width = alpha.shape
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    sides = sorted((right - left, bottom - top))
    ink = np.asarray(page.crop((left, top, right, bottom)))
    if sides[1] < _LEAST_BOX * max(height, width) or sides[1] > _SLIMMEST * sides[0]:
        return None
    if (ink[..., 3] / 255).mean() < _LEAST_INK:
        return None
    x0, x1 = (round(float(x / width), 4) for x in (left, right))
    y0, y1 = (round(float(y / height), 4) for y in (top, bottom))
    digest = hashlib.sha256(data).hexdigest()
    return Look(digest, (x0, y0, x1, y1), round(height / width, 4), _grounds(ink), _thumb(ink))


@lru_cache(maxsize=3072)
def _kept(path: Path, box: tuple[float, float, float, float], aspect: float, size: int) -> np.ndarray:
    return _drawn(path, box, aspect, size)


def _drawn(path: Path, box: tuple[float, float, float, float], aspect: float, size: int) -> np.ndarray:
    """Drawn a little larger, cropped to `box`, shrunk so that the longer side is `size`, centred."""
    share = max(box[2] - box[0], (box[3] - box[1]) * aspect)
    try:
        page = _page(path, path.read_bytes(), min(1536, max(2, round(1.25 * size / share))))
    except (ValueError, OSError) as error:
        hint = "fetch its package again: `vlm-ablate data fetch`"
        raise DataError(f"{path} cannot be drawn: {error}", hint=hint) from error
    width, height = page.size
    part = page.crop((int(box[0] * width), int(box[1] * height), round(box[2] * width), round(box[3] * height)))
    scale = size / max(part.size)
    fitted = part.resize([max(1, round(side * scale)) for side in part.size], Image.Resampling.BICUBIC, reducing_gap=3)
    square = Image.new("RGBA", (size, size))
    square.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return np.asarray(square)


def _page(path: Path, data: bytes, width: int) -> Image.Image:
    """The whole page as RGBA: an SVG `width` pixels wide, a PNG as it is.

    Raises:
        ValueError, OSError: the file is broken.
    """
    if path.suffix.lower() == ".svg":
        fonts = _fonts() if b"text" in data else {}
        data = svg_to_png(data, width, dpi=96, skip_system_fonts=True, **fonts)
    try:
        page = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    if page.width * page.height > _MOST_PIXELS:
        raise ValueError(f"a page of {page.width:,} x {page.height:,} pixels")
    return page.convert("RGBA")


@cache
def _fonts() -> dict[str, Any]:
    """The one face for all text, so that a drawing looks the same on every machine."""
    families = ("font_family", "serif_family", "sans_serif_family", "cursive_family", "fantasy_family",
                "monospace_family")
    return {"font_files": [str(font("DejaVuSans", 12).path)], **dict.fromkeys(families, "DejaVu Sans")}


def _grounds(ink: np.ndarray) -> tuple[str, ...]:
    """Colours from which a quarter of what is drawn differs clearly; the best one where that is true of none."""
    pixels = ink[ink[..., 3] > 128][:, :3].astype(int)
    if not len(pixels):
        return ("white",)
    apart = {name: float((np.abs(pixels - colour).max(1) > 60).mean()) for name, colour in COLOURS.items()}
    return tuple(name for name in COLOURS if apart[name] >= 0.25) or (max(apart, key=apart.__getitem__),)


def _thumb(ink: np.ndarray) -> str:
    grey = Image.new("RGBA", ink.shape[1::-1], (128, 128, 128, 255))
    grey.alpha_composite(Image.fromarray(ink))
    small = grey.convert("RGB").resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return base64.b64encode(small.tobytes()).decode()


AnyDrawing = TypeVar("AnyDrawing", bound=Drawing)


def pool(drawings: Iterable[AnyDrawing], split: Split | None, folder: Path) -> tuple[AnyDrawing, ...]:
    """The drawings of a split, or all, mixed: a hash of their keys decides the order.

    Raises:
        DataError: there is none.
    """
    found = [drawing for drawing in drawings if split in (None, drawing.split)]
    if not found:
        raise DataError(f"no usable pictures {f'of the split {split} ' if split else ''}under {folder}",
                        hint="fetch them again with `vlm-ablate data fetch`")
    return tuple(sorted(found, key=lambda drawing: hashlib.sha256(drawing.key.encode()).digest()))
