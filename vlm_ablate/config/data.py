"""The data section: a mixture of sources, how images are prepared, how long a sequence may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlm_ablate.config.base import Strict, component
from vlm_ablate.registry import sources

MAX_TILES = 6
"""Tiles along a side for which there are row and column tokens (Idefics3)."""


class ImageConfig(Strict):
    """How an image becomes pixels. Sizes are in pixels."""

    resize: Literal["square", "native"] = "square"
    """"square" stretches to size x size; "native" keeps the aspect ratio between `shortest` and `size`."""
    size: int = Field(384, gt=0)
    """Side of the square, or longest side when native."""
    shortest: int | None = Field(None, gt=0)
    """Least shortest side when native (Idefics2: 378)."""
    split: Literal["none", "crops", "tiles"] = "none"
    """"crops": 4 crops and the original (Idefics2); "tiles": tiles of `tile` px and the small original (Idefics3)."""
    tile: int = Field(364, gt=0)
    """Side of a tile when split into tiles; `size` is then the longest side before tiling."""
    resample: Literal["auto", "bilinear", "bicubic", "lanczos"] = "auto"
    """Filter; "auto" is what transformers uses: bicubic for squares, bilinear for native sizes, lanczos for tiles."""
    fast: bool = False
    """Decode JPEG at a reduced size and shrink in two steps: faster, pixels differ slightly from transformers'."""

    @model_validator(mode="after")
    def _sides(self) -> ImageConfig:
        if self.shortest and self.shortest > self.size:
            raise ValueError(f"shortest {self.shortest} is above size {self.size}")
        if self.split == "tiles" and self.size > MAX_TILES * self.tile:
            raise ValueError(f"size {self.size} makes more than {MAX_TILES} tiles of {self.tile} px along a side")
        return self


class MixtureEntry(Strict):
    """One source and its share."""

    source: component(sources)  # type: ignore[valid-type]
    weight: float = Field(1.0, gt=0)
    """Probability of drawing from this source, after division by the sum of weights."""
    epochs: float | None = Field(None, gt=0)
    """Instead of `weight`: how often to pass over the source relative to the others (its share is epochs x rows)."""


class DataConfig(Strict):
    """What a run trains on."""

    mixture: dict[str, MixtureEntry] = Field(min_length=1)
    """Name -> source and weight."""
    image: ImageConfig = ImageConfig()
    sequence_length: int = Field(2048, gt=0)
    """Tokens per sequence, visual tokens included. Truncation never cuts inside an image block."""
    prompt: Literal["plain", "chat", "template"] = "plain"
    """Prompt format: "plain" (base models, few-shot), "chat" (User:/Assistant:), "template" (the model's own)."""
    workers: int = Field(0, ge=0)
    """Data loader processes; the order of samples does not depend on it."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Share of unusable samples (undecodable image, nothing to learn after truncation) above which the run fails."""
    padding: Literal["right", "left"] = "right"
    """Side on which shorter sequences of a training batch are padded."""

    @model_validator(mode="after")
    def _one_way_to_weigh(self) -> DataConfig:
        counted = [name for name, entry in self.mixture.items() if entry.epochs is not None]
        if counted and len(counted) != len(self.mixture):
            raise ValueError(f"`epochs` is set for {', '.join(counted)} only; set it for all sources or for none")
        return self
