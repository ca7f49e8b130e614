"""The data of a stage: a mixture of sources, how images are prepared, how long a sequence may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from vlm_ablate.config.base import FieldError, Strict, added, component
from vlm_ablate.registry import sources

MAX_TILES = 6
"""Tiles along a side for which there are row and column tokens (Idefics3)."""


PromptFormat = Literal["plain", "chat", "template"]


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

    @property
    def unfilled(self) -> str:
        """Why tiles do not fill the longest side, with the sizes nearby that they fill; "" where they do."""
        if self.split != "tiles" or self.size % self.tile == 0:
            return ""
        below = self.size // self.tile * self.tile
        fitting = (size for size in (below, below + self.tile) if 0 < size <= MAX_TILES * self.tile)
        return f"{self.size} px is no multiple of the tile of {self.tile} px; write {' or '.join(map(str, fitting))}"


class MixtureEntry(Strict, decides="training"):
    """One source and its share."""

    source: component(sources)  # type: ignore[valid-type]  # made at run time
    weight: float = Field(1.0, gt=0)
    """Probability of drawing from this source, after division by the sum of weights."""
    epochs: float | None = Field(None, gt=0)
    """Instead of `weight`: how often to pass over the source relative to the others (its share is epochs x rows)."""


class Preparation(Strict):
    """How a sample becomes what the model reads."""

    image: ImageConfig = ImageConfig()
    prompt: PromptFormat = "plain"
    """Prompt format: "plain" (base models, few-shot), "chat" (User:/Assistant:), "template" (the model's own)."""


class DataConfig(Preparation, decides="training"):
    """What a stage trains on."""

    mixture: dict[str, MixtureEntry] = Field(min_length=1)
    """Name -> source and weight."""
    climb: dict[Annotated[int, Field(ge=0)], int] = added({})
    """Optimiser step of the stage -> `image.size` from that step on (Idefics3: 364 to 1820); before the first one
    `image.size` holds. Steps that the stage does not reach do nothing."""
    sequence_length: int = Field(2048, gt=0)
    """Tokens per sequence, visual tokens included. Truncation never cuts inside an image block."""
    padding: Literal["right", "left"] = "right"
    """Side on which shorter sequences of a training batch are padded."""
    packing: Literal["none", "rows"] = added("none")
    """"rows": a stage's `batch_size` counts rows of up to `sequence_length` tokens, each filled with as many whole
    samples as fit; which stand together decides what an optimiser step sees. Samples never see their neighbours."""
    row_views: int | None = added(None, gt=0)
    """Most views (images, crops or tiles) of a packed row; None: as many as fit."""

    @model_validator(mode="after")
    def _one_way_to_weigh(self) -> DataConfig:
        counted = [name for name, entry in self.mixture.items() if entry.epochs is not None]
        if counted and len(counted) != len(self.mixture):
            raise ValueError(f"`epochs` is set for {', '.join(counted)} only; set it for all sources or for none")
        return self

    @model_validator(mode="after")
    def _rows_have_limits(self) -> DataConfig:
        if self.row_views is not None and self.packing == "none":
            raise FieldError(("row_views",), "it limits packed rows; write `packing: rows` too")
        return self

    @model_validator(mode="after")
    def _climbs_to_sizes(self) -> DataConfig:
        for step, size in self.climb.items():
            try:
                self._sized(size)
            except ValidationError as error:
                raise FieldError(("climb", str(step)), str(error.errors()[0]["msg"])) from error
        return self

    def _sized(self, size: int) -> ImageConfig:
        return ImageConfig.model_validate({**self.image.model_dump(), "size": size})

    def image_by_step(self) -> dict[int, ImageConfig]:
        """Optimiser step of the stage -> preparation of images from that step on; begins with step 0."""
        return {0: self.image} | {step: self._sized(size) for step, size in sorted(self.climb.items())}
