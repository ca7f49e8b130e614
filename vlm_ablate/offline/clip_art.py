"""One drawing of the Open Clip Art Library on a coloured ground; its title is the caption."""

from __future__ import annotations

from vlm_ablate.offline.debian import clip_art as material
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.stamps import draw_alone


def clip_art(split: Split, index: int, size: int) -> Item:
    """A drawing and its title; a description of one plain sentence is a second reference.

    Raises:
        AssetMissing: the clip art was not fetched.
    """
    rng = item_rng("clip_art", split, index)
    pool = material.clip_art(split)
    picture = pool[index % len(pool)]
    canvas, ground = draw_alone(picture, rng, size)
    references = tuple(dict.fromkeys(text for text in (picture.title, picture.description) if text))
    return Item(f"clip_art/{split}/{index}", canvas.pixels(), "", picture.title, references,
                f"{picture.title}, ground {ground}", tuple(canvas.regions))
