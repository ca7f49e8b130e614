"""Tiny maps as files: the XML of a .kgm and a PNG in which each region has its own colour."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

FOLDER = "usr/share/kgeography"
FRONTIER, SEA, ABROAD = (0, 0, 0), (0, 0, 255), (220, 220, 220)
CELL = 40

Rgb = tuple[int, int, int]
Division = tuple[str, str, str, Rgb]
"""Name, what stands under <ignore>, capital, colour."""


def colour_of(number: int) -> Rgb:
    """A colour of its own for each region."""
    return 10 + number % 200, 100 + number // 200, 30


def kgm(title: str, picture: str, divisions: Sequence[Division], kind: str = "Provinces", extra: str = "") -> bytes:
    """A map's XML, as KGeography writes it."""
    parts = []
    for name, ignore, capital, colour in divisions:
        tags = f"<name>{name}</name>" + (f"<ignore>{ignore}</ignore>" if ignore else "")
        tags += f"<capital>{capital}</capital>" if capital else ""
        rgb = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("red", "green", "blue"), colour, strict=True))
        parts.append(f"<division>{tags}<color>{rgb}</color></division>")
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE kgeographyMap>\n<map><mapFile>{picture}</mapFile>'
        f"<name>{title}</name><divisionsName>{kind}</divisionsName>{extra}{''.join(parts)}</map>"
    ).encode()


def picture(pixels: np.ndarray, *, palette: bool = True) -> bytes:
    """(height, width, 3) uint8 as PNG bytes."""
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.quantize(256) if palette else image).save(file, "PNG")
    return file.getvalue()


def grid(rows: int, columns: int, widths: Sequence[int] | None = None) -> np.ndarray:
    """Cells in rows and columns with black lines between them and sea around; a cell each region, row by row."""
    widths = widths or [CELL] * columns
    canvas = np.full((rows * CELL + 20, sum(widths) + 20, 3), SEA, np.uint8)
    for row in range(rows):
        for column in range(columns):
            left, top = 10 + sum(widths[:column]), 10 + row * CELL
            canvas[top : top + CELL, left : left + widths[column]] = FRONTIER
            canvas[top + 1 : top + CELL - 1, left + 1 : left + widths[column] - 1] = colour_of(row * columns + column)
    return canvas


def grid_map(
    stem: str, title: str, names: Sequence[str], columns: int = 3, *, kind: str = "Provinces",
    capitals: Sequence[str] = (), widths: Sequence[int] | None = None,
) -> dict[str, bytes]:
    """A map whose regions are the cells of a grid: its two files by their paths in the package."""
    assert len(names) % columns == 0
    given = list(capitals) or [f"{name[::-1].capitalize()}" for name in names]
    divisions: list[Division] = [("Frontier", "yes", "", FRONTIER), ("Water", "yes", "", SEA)]
    divisions += [(n, "", c, colour_of(k)) for k, (n, c) in enumerate(zip(names, given, strict=True))]
    return {
        f"{FOLDER}/{stem}.kgm": kgm(title, f"{stem}.png", divisions, kind),
        f"{FOLDER}/{stem}.png": picture(grid(len(names) // columns, columns, widths)),
    }


def word(number: int) -> str:
    """A short made-up name for each number."""
    return "BDFGKLMNPRSTVZ"[number // 5 // 14 % 14] + "aeiou"[number % 5] + "bdfgklmnprstvz"[number // 5 % 14] + "o"


def world(countries: int = 24) -> dict[str, bytes]:
    """Maps of made-up countries, and of three continents that hold them."""
    files: dict[str, bytes] = {}
    for k in range(countries):
        names = [word(20 * k + i) for i in range(9)]
        files |= grid_map(f"land{k:02d}", f"Land {chr(65 + k)}", names, widths=(30, 60, 30 + 2 * k))
    lands = [f"Land {chr(65 + k)}" for k in range(24)]
    for stem, title, part in (("africa", "Africa", lands[:9]), ("asia", "Asia", lands[8:17]),
                              ("southamerica", "South America", lands[15:24])):
        towns = [f"Town {name[-1] * 2}" for name in part]
        files |= grid_map(stem, title, part, kind="Countries", capitals=towns, widths=(30, 60, 45))
    return files
