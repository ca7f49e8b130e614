"""One stamp, a photo or drawing, on a coloured ground; its sentence is the caption."""

from __future__ import annotations

import random

from vlm_ablate.offline.canvas import COLOURS, Canvas, grid_square
from vlm_ablate.offline.debian import stamps as material
from vlm_ablate.offline.debian.drawing import Drawing
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Split


def stamps(split: Split, index: int, size: int) -> Item:
    """A stamp and its sentence, in lower case and without its stop, as captions are answered here.

    Raises:
        AssetMissing: the stamps were not fetched.
    """
    rng = item_rng("stamps", split, index)
    pool = material.stamps(split)
    picture = pool[index % len(pool)]
    canvas, ground = draw_alone(picture, rng, size)
    caption = picture.caption
    return Item(f"stamps/{split}/{index}", canvas.pixels(), "", caption, (caption,),
                f"{caption}, ground {ground}", tuple(canvas.regions))


def draw_alone(picture: Drawing, rng: random.Random, size: int) -> tuple[Canvas, str]:
    """One picture, large, somewhere on a ground on which it can be seen; also the ground's colour."""
    ground = rng.choice(picture.look.grounds)
    canvas = Canvas(size, size, COLOURS[ground], rng)
    canvas.paste(picture, *grid_square(rng, (0, 0, size, size), (0.75, 1.0)))
    return canvas, ground
