"""Pages: fact sheets of several lines in small print, twice as tall as wide; what does a line say?"""

from __future__ import annotations

import random

from vlm_ablate.offline.canvas import Canvas, any_font, fitting_font
from vlm_ablate.offline.facts import countries
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Split, split_of


def pages(split: Split, index: int, side: int) -> Item:
    """A fact sheet of one country, (2 * side, side) pixels, and a question about one of its lines."""
    rng = item_rng("pages", split, index)
    title, lines = _country_sheet(rng, split)
    canvas = Canvas(side, 2 * side, (248, 248, 244), rng)
    step = 2 * side / (2 * len(lines) + 1)
    canvas.text(title, 2, 1, fitting_font(rng, title, side - 4, 13), (20, 20, 20))
    for k, (label, value) in enumerate(lines):
        top = (2 * k + 1) * step
        canvas.text(label, 2, top, any_font(rng, 8), (110, 110, 110))
        canvas.text(value, 2, top + step * 0.8, fitting_font(rng, value, side - 4, 12), (20, 20, 20))
    label, value = rng.choice(lines)
    description = ", ".join([f"page {title}", *(f"{a} {b}" for a, b in lines)])
    return Item(f"pages/{split}/{index}", canvas.pixels(), f"What stands under {label}?", value, (value,), description,
                tuple(canvas.regions))


def _country_sheet(rng: random.Random, split: Split) -> tuple[str, list[tuple[str, str]]]:
    pool = [c for c in countries().values() if split_of(f"page-{c.code}") == split and len(c.name) < 14 and c.demonym]
    country = rng.choice(pool)
    lines = [("capital", country.capital), ("continent", country.continent), ("people", country.demonym)]
    rng.shuffle(lines)
    return country.name, lines
