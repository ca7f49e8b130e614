"""Pictures half as wide again as they are tall, for what comes of stretching them to a square."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vlm_ablate.offline.canvas import GRID
from vlm_ablate.offline.item import Item, Region, item_rng
from vlm_ablate.offline.pictures import Split

Make = Callable[[Split, int, int], Item]


def wide(make: Make) -> Make:
    """The items of a task that draws squares, each somewhere on a ground of its own colour, 3 : 2."""

    def made(split: Split, index: int, size: int) -> Item:
        item = make(split, index, size)
        rng = item_rng("wide", split, index)
        left = GRID * rng.randint(0, size // 2 // GRID)
        image = np.empty((size, size * 3 // 2, 3), np.uint8)
        image[:] = item.image[0, 0]
        image[:, left : left + size] = item.image
        regions = tuple(
            Region(r.text, (r.box[0] + left, r.box[1], r.box[2] + left, r.box[3])) for r in item.regions
        )
        return replace(item, id=f"wide_{item.id}", image=image, regions=regions)

    return made
