"""Pictures that must be read: signs with words or handwritten numbers, bar charts and tables of real numbers."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
from PIL import Image

from vlm_ablate.offline.canvas import COLOURS, GRID, Canvas, any_font, ink_on, spaced_word
from vlm_ablate.offline.item import Item, Region, item_rng
from vlm_ablate.offline.pictures import Split, digits, split_of, things
from vlm_ablate.offline.tables import Series, series


@cache
def lexicon() -> tuple[str, ...]:
    """Words that stand on signs: three to six letters."""
    return tuple(sorted({p.name for p in things() if 3 <= len(p.name) <= 6}))


def reading(split: Split, index: int, size: int) -> Item:
    """A sign (55 %), a handwritten number (15 %), a chart (15 %) or a table (15 %)."""
    rng = item_rng("reading", split, index)
    make = rng.choices((sign, number, chart, table), (55, 15, 15, 15))[0]
    canvas, question, answer, description = make(rng, split, size)
    return Item(f"reading/{split}/{index}", canvas.pixels(), question, answer, (answer,), description,
                tuple(canvas.regions))


def sign(rng: random.Random, split: Split, size: int) -> tuple[Canvas, str, str, str]:
    """One word on a coloured board."""
    word = rng.choice(lexicon())
    colour = rng.choice(list(COLOURS))
    canvas = Canvas(size, size, COLOURS[colour], rng)
    spaced_word(canvas, word, (0, 0, size, size), ink_on(COLOURS[colour]))
    return canvas, "What does the sign say?", word, f"sign {word}, ground {colour}"


def number(rng: random.Random, split: Split, size: int) -> tuple[Canvas, str, str, str]:
    """Two handwritten digits; each digit image belongs to one split."""
    canvas = Canvas(size, size, COLOURS["white"], rng)
    side = 3 * GRID * size // 64
    top = GRID * rng.randint(0, (size - side) // GRID)
    said = ""
    for k in range(2):
        pixels, label = _digit(rng, split)
        said += str(label)
        left = k * size // 2 + GRID * rng.randint(0, (size // 2 - side) // GRID)
        big = np.asarray(Image.fromarray(255 - pixels).resize((side, side), Image.Resampling.BICUBIC))
        canvas.paste_array(np.repeat(big[:, :, None], 3, 2), left, top)
        canvas.regions.append(Region(str(label), (left, top, left + side, top + side)))
    return canvas, "What number is written?", said, f"number {said}"


@cache
def _digits_of(split: Split) -> tuple[int, ...]:
    return tuple(i for i in range(len(digits()[1])) if split_of(f"digit-{i}") == split)


def _digit(rng: random.Random, split: Split) -> tuple[np.ndarray, int]:
    images, labels = digits()
    i = rng.choice(_digits_of(split))
    return images[i], int(labels[i])


def chart(rng: random.Random, split: Split, size: int) -> tuple[Canvas, str, str, str]:
    """Three bars of a real series in three colours; which colour is the tallest or the shortest bar?"""
    rows = _pick_rows(rng, split, 3)
    names = rng.sample([c for c in COLOURS if c not in ("white", "black")], 3)
    canvas = Canvas(size, size, COLOURS["white"], rng)
    top = max(v for _, v in rows) or 1
    width = size // 3
    for k, ((_, value), name) in enumerate(zip(rows, names, strict=True)):
        height = max(2, round((size - 6) * value / top))
        left, right = k * width + 3, (k + 1) * width - 3
        canvas.draw.rectangle((left, size - height, right, size - 1), fill=COLOURS[name])
        canvas.regions.append(Region(f"{name} bar", (left, size - height, right, size)))
    highest = rng.random() < 0.5
    pick = (max if highest else min)(range(3), key=lambda k: rows[k][1])
    question = f"Which colour is the {'tallest' if highest else 'shortest'} bar?"
    bars = ", ".join(f"{n} bar {round(9 * v / top)}" for n, (_, v) in zip(names, rows, strict=True))
    return canvas, question, names[pick], f"chart {bars}"


def table(rng: random.Random, split: Split, size: int) -> tuple[Canvas, str, str, str]:
    """Three rows of a real table; which number is at the top, in the middle or at the bottom?"""
    rows = _pick_rows(rng, split, 3, digits_at_most=2)
    canvas = Canvas(size, size, COLOURS["white"], rng)
    step = size / 3
    for k, (label, value) in enumerate(rows):
        top = round(k * step / GRID) * GRID
        canvas.text(label[:4], 1, top, any_font(rng, 12), (20, 20, 20))
        for column, digit in enumerate(str(value), 5):
            left = column * GRID
            spaced_word(canvas, digit, (left, top, left + GRID, top + 2 * GRID), (20, 20, 20))
    k = rng.randrange(3)
    place = ("top", "middle", "bottom")[k]
    text = ", ".join(f"{p} {v}" for p, (_, v) in zip(("top", "middle", "bottom"), rows, strict=True))
    return canvas, f"What is the {place} number?", str(rows[k][1]), f"table {text}"


def _pick_rows(
    rng: random.Random, split: Split, count: int, digits_at_most: int = 9
) -> list[tuple[str, int]]:
    """Rows with distinct values of one real series of the split."""
    for _ in range(50):
        source: Series = rng.choice(series(split))
        pairs = [(a, v) for a, v in zip(source.labels, source.values, strict=True) if len(str(v)) <= digits_at_most]
        if len({v for _, v in pairs}) < count:
            continue
        rows = rng.sample(pairs, count)
        if len({v for _, v in rows}) == count:
            return rows
    raise ValueError(f"no series of the {split} split has {count} distinct values")
