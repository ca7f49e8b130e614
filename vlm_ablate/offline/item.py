"""One generated question about one generated picture, with its exact answer and an exact description in words."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from vlm_ablate.offline.pictures import Split


@dataclass(frozen=True)
class Region:
    """What stands where in a picture: a text and its box in pixels."""

    text: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""


@dataclass(frozen=True)
class Item:
    """A picture, a question about it, and the answer that follows from how the picture was made."""

    id: str
    image: np.ndarray
    """(height, width, 3) uint8."""
    question: str
    answer: str
    references: tuple[str, ...]
    description: str
    """The picture in words; what a language model would need to be told to answer without seeing it."""
    regions: tuple[Region, ...] = ()


def item_rng(task: str, split: Split, index: int, seed: int = 0) -> random.Random:
    """The generator of item `index`: a pure function of its arguments, the same on every machine."""
    return random.Random(f"{task}/{split}/{index}/{seed}")
