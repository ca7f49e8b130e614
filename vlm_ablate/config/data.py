"""The data section: a mixture of sources, how images are prepared, how long a sequence may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlm_ablate.config.base import Strict, component
from vlm_ablate.config.components import sources


class ImageConfig(Strict):
    """How an image becomes pixels. Sizes are in pixels."""

    resize: Literal["square", "native"] = "square"
    """"square" stretches to size x size; "native" keeps the aspect ratio between `shortest` and `size`."""
    size: int = Field(384, gt=0)
    """Side of the square, or longest side when native."""
    shortest: int | None = Field(None, gt=0)
    """Least shortest side when native (Idefics2: 378)."""
    split: Literal["none", "crops", "tiles"] = "none"
    """"crops": 4 crops and the original (Idefics2); "tiles": tiles of `tile` px and the downscaled original (Idefics3)."""
    tile: int = Field(364, gt=0)
    """Side of a tile when split into tiles; `size` is then the longest side before tiling."""

    @model_validator(mode="after")
    def _sides(self) -> ImageConfig:
        if self.shortest and self.shortest > self.size:
            raise ValueError(f"shortest {self.shortest} is above size {self.size}")
        return self


class MixtureEntry(Strict):
    """One source and its share."""

    source: component(sources)  # type: ignore[valid-type]
    weight: float = Field(1.0, gt=0)
    """Probability of drawing from this source, after division by the sum of weights."""


class DataConfig(Strict):
    """What a run trains on."""

    mixture: dict[str, MixtureEntry] = Field(min_length=1)
    """Name -> source and weight."""
    image: ImageConfig = ImageConfig()
    sequence_length: int = Field(2048, gt=0)
    """Tokens per sequence, visual tokens included. Truncation never cuts inside an image block."""
    prompt: str = "plain"
    """Prompt format: "plain" (base models, few-shot), "chat" (User:/Assistant:), or "template" (the language model's own)."""
    workers: int = Field(0, ge=0)
    """Data loader processes; the order of samples does not depend on it."""
