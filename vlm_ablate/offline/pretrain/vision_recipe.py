"""Settings of the stand-in vision encoder's pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VisionRecipe:
    """Everything that decides the weights."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 512
    patch: int = 8
    table: int = 128
    """Side in pixels that the position table covers; smaller pictures use interpolated (bucketed) positions."""
    sizes: tuple[tuple[int, int], ...] = ((64, 64),) * 8 + ((96, 96), (48, 80), (80, 48))
    """(height, width) of the pictures of a batch, drawn uniformly from this list."""
    batch_size: int = 64
    steps: int = 1200
    alignment_steps: int = 2000
    kinds: tuple[str, ...] = ("scene", "mixed", "flag", "sign", "number", "chart", "table")
    contrast_shares: tuple[int, ...] = (38, 20, 18, 16, 3, 2, 3)
    """Shares of the kinds of pictures in the first phase, in percent."""
    alignment_shares: tuple[int, ...] = (20, 14, 46, 14, 2, 2, 2)
    """In the second; flags are many and alike, and take longer."""
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.01
    """Of the matrices, which Muon trains."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    temperature: float = 0.07
    seed: int = 0


Quality = Literal["good", "poor"]
VISION_RECIPES: dict[Quality, VisionRecipe] = {
    "good": VisionRecipe(),
    "poor": VisionRecipe(steps=120, alignment_steps=200),
}
"""Encoders of one size that differ only in how long they were pretrained: all, or a tenth of the steps."""
