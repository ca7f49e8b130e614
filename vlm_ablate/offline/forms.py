"""Small printed pages that small encoders can read, in four kinds, one question a page; and numbers in another script.

What is printed stands in the quarters of a square of 64 px, which is enlarged for a larger side. Words have up to four
letters, as in the mixed pictures of the encoder's pretraining, and numbers two digits.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
from PIL import Image

from vlm_ablate.offline.canvas import COLOURS, GRID, Canvas, Rgb, font, ink_on, spaced_word
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.reading import lexicon

INK: Rgb = (20, 20, 20)
PAPERS: tuple[Rgb, ...] = (COLOURS["white"], (250, 244, 220), (228, 236, 246))
SIDE = 8 * GRID
HALF = SIDE // 2
ROWS, SIDES = ("first", "last"), ("left", "right")

Row = tuple[str, str]
"""What stands at the left and at the right of a line."""


@cache
def words() -> tuple[str, ...]:
    """Words that stand on pages."""
    return tuple(word for word in lexicon() if len(word) <= 4)


def receipts(split: Split, index: int, size: int) -> Item:
    """Two things and their prices, on a slip with a dashed edge: which thing, or which price, is first or last?"""
    rng = item_rng("receipts", split, index)
    rows = _rows(rng)
    canvas = _page(rng, rows)
    for left in range(0, SIDE, GRID):
        canvas.draw.line((left, 0, left + 3, 0), fill=INK)
    place, which = rng.randrange(2), rng.randrange(2)
    question = f"What is the {ROWS[place]} {('thing', 'price')[which]}?"
    return _item(f"receipts/{split}/{index}", canvas, size, rows, question, rows[place][which])


def timetables(split: Split, index: int, size: int) -> Item:
    """Two hours and what is then, with a line between: which hour, or which event, is first or last?"""
    rng = item_rng("timetables", split, index)
    rows = [(number, word) for word, number in sorted(_rows(rng), key=lambda row: row[1])]
    canvas = _page(rng, rows)
    canvas.draw.line((HALF - 2, 0, HALF - 2, SIDE), fill=(90, 90, 90))
    place, which = rng.randrange(2), rng.randrange(2)
    question = f"What is the {ROWS[place]} {('hour', 'event')[which]}?"
    return _item(f"timetables/{split}/{index}", canvas, size, rows, question, rows[place][which])


def cards(split: Split, index: int, size: int) -> Item:
    """Four fields in a frame, each with a word or a number: what stands in one of them?"""
    rng = item_rng("cards", split, index)
    fields = [word if rng.random() < 0.5 else number for word, number in (*_rows(rng), *_rows(rng))]
    rows = [(fields[0], fields[1]), (fields[2], fields[3])]
    canvas = _page(rng, rows)
    canvas.draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(150, 40, 40))
    place, which = rng.randrange(2), rng.randrange(2)
    question = f"What stands at the {('top', 'bottom')[place]} {SIDES[which]}?"
    return _item(f"cards/{split}/{index}", canvas, size, rows, question, rows[place][which])


def lists(split: Split, index: int, size: int) -> Item:
    """Two words, one below the other, on a ruled page: which is first or last?"""
    rng = item_rng("lists", split, index)
    rows = [(word, "") for word, _ in _rows(rng)]
    canvas = _page(rng, rows)
    for top in (HALF - 1, SIDE - 1):
        canvas.draw.line((0, top, SIDE, top), fill=(150, 170, 210))
    place = rng.randrange(2)
    return _item(f"lists/{split}/{index}", canvas, size, rows, f"Which is the {ROWS[place]} word?", rows[place][0])


def numerals(split: Split, index: int, size: int) -> Item:
    """A printed number of two digits in the Arabic script's digits: which number is it?"""
    rng = item_rng("numerals", split, index)
    said = f"{rng.randint(10, 99)}"
    ground = rng.choice(list(COLOURS))
    canvas = Canvas(size, size, COLOURS[ground], rng)
    face = font("DejaVuSans", size * 3 // 8)
    left, top = rng.randint(2, size // 4), rng.randint(0, size // 3)
    canvas.text("".join(chr(0x0660 + int(digit)) for digit in said), left, top, face, ink_on(COLOURS[ground]))
    return Item(f"numerals/{split}/{index}", canvas.pixels(), "What number is written?", said, (said,),
                f"number {said}", tuple(canvas.regions))


def _rows(rng: random.Random) -> list[Row]:
    """Two distinct words, each with a number of its own."""
    numbers = rng.sample(range(10, 100), 2)
    return [(word, str(number)) for word, number in zip(rng.sample(words(), 2), numbers, strict=True)]


def _page(rng: random.Random, rows: list[Row]) -> Canvas:
    """A page with what stands in the rows, each somewhere in its quarter of the page."""
    canvas = Canvas(SIDE, SIDE, rng.choice(PAPERS), rng)
    for k, row in enumerate(rows):
        top = k * HALF + GRID * rng.randint(0, 2)
        for left, text in zip((0, HALF), row, strict=True):
            start = left + GRID * rng.randint(0, 4 - len(text))
            for i, part in enumerate(list(text) if text.isdigit() else [text] if text else []):
                at = start + i * GRID  # each digit is a region of its own, as the encoder knows them
                spaced_word(canvas, part, (at, top, at + len(part) * GRID, top + 2 * GRID), INK)
    return canvas


def _item(name: str, canvas: Canvas, size: int, rows: list[Row], question: str, answer: str) -> Item:
    said = ", ".join(f"{left} {right}".strip() for left, right in rows)
    if size != SIDE:
        pixels = np.asarray(canvas.image.resize((size, size), Image.Resampling.BICUBIC))
        return Item(name, pixels, question, answer, (answer,), f"page {said}")
    return Item(name, canvas.pixels(), question, answer, (answer,), f"page {said}", tuple(canvas.regions))
