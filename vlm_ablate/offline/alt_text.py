"""What the web writes beside its pictures, made of exact captions: most of it says little, or nothing, or is wrong."""

from __future__ import annotations

import random

WORDLESS = ("image", "photo", "picture", "thumbnail", "untitled", "click to enlarge", "buy now", "home page")


def alt_text(description: str, caption: str, other: str, rng: random.Random) -> str:
    """Alt text for a picture.

    Args:
        description: all that the picture shows, the first thing first, as `scenes.Scene.describe` writes it.
        caption: the exact caption.
        other: a caption of another picture.
        rng: decides: the exact caption (25 %), one thing alone (35 %), words that say nothing (20 %), or what belongs
            to another picture (20 %).
    """
    kind = rng.choices(("exact", "one thing", "nothing", "another's"), (25, 35, 20, 20))[0]
    if kind == "one thing":
        first = description.partition(",")[0]
        for place in ("top left", "top right", "bottom left", "bottom right"):
            first = first.removesuffix(f" {place}")
        return first
    return {"exact": caption, "nothing": rng.choice(WORDLESS), "another's": other}[kind]
