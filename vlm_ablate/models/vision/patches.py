"""Patch grids: which patches of a padded view are real."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import unfold


def patch_mask(pixel_mask: Tensor, patch_size: int, rule: Literal["full", "any"]) -> Tensor:
    """(views, height, width) bool -> (views, rows, columns) bool.

    A patch is real when all of its pixels are ("full", Idefics2) or any is ("any", Idefics3).
    """
    rows, columns = pixel_mask.shape[1] // patch_size, pixel_mask.shape[2] // patch_size
    cells = unfold(pixel_mask[:, None].float(), patch_size, stride=patch_size)
    real = cells.amin(1) if rule == "full" else cells.amax(1)
    return real.bool().view(-1, rows, columns)
