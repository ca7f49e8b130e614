"""Flags with questions whose answers are not in the picture: the language model has to know the country."""

from __future__ import annotations

import random

from vlm_ablate.offline.canvas import COLOURS, Canvas, grid_square
from vlm_ablate.offline.facts import Country, countries
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Picture, Split, flags


def known_flags(split: Split | None) -> tuple[Picture, ...]:
    """Flags of countries with facts."""
    known = countries()
    return tuple(p for p in flags(split) if p.code in known)


def ask_country(country: Country, rng: random.Random) -> tuple[str, str]:
    """A question about the country of a flag: capital (45 %), continent (35 %), people (20 %)."""
    kind = rng.choices(("capital", "continent", "people"), (45, 35, 20))[0]
    if kind == "people" and country.demonym:
        return "What are the people of this country called?", country.demonym
    if kind == "continent":
        return "On which continent is this country?", country.continent
    return "What is the capital of this country?", country.capital


def draw_flag(picture: Picture, rng: random.Random, size: int) -> Canvas:
    """One flag, large, somewhere on a coloured ground."""
    canvas = Canvas(size, size, rng.choice(list(COLOURS.values())), rng)
    canvas.paste(picture, *grid_square(rng, (0, 0, size, size), (0.75, 1.0)))
    return canvas


def knowledge(split: Split, index: int, size: int) -> Item:
    """A flag and a question about its country."""
    rng = item_rng("knowledge", split, index)
    pool = known_flags(split)
    # Every flag of the split comes round before any comes again.
    picture = pool[index % len(pool)]
    country = countries()[picture.code]
    question, answer = ask_country(country, rng)
    canvas = draw_flag(picture, rng, size)
    return Item(f"knowledge/{split}/{index}", canvas.pixels(), question, answer, (answer,), f"flag of {country.name}",
                tuple(canvas.regions))
