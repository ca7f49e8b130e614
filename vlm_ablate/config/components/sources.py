"""Data sources: one record schema each, all becoming `Sample`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import Registry

sources: Registry = Registry("data source")

_PKG = "vlm_ablate.data.sources"


class ObelicsConfig(ComponentConfig):
    """Interleaved web documents in OBELICS' schema: parallel lists `images` and `texts`."""

    name: Literal["obelics"] = "obelics"
    id: str = "HuggingFaceM4/OBELICS"
    """Hub id or local folder of parquet or tar shards."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    split: str = "train"
    max_images: int | None = Field(None, gt=0)
    """Images kept a document; None: all that fit the sequence."""


class PairsConfig(ComponentConfig):
    """Image and caption pairs."""

    name: Literal["pairs"] = "pairs"
    id: str
    """Hub id or local folder of parquet or tar shards."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    split: str = "train"
    image: str = "image"
    """Column of the picture."""
    text: str = "text"
    """Column of the caption."""


class OfflineConfig(ComponentConfig):
    """Questions and captions on pictures composed from what pip packages carry; exact answers, no download from a hub."""

    name: Literal["offline"] = "offline"


sources.declare("obelics", ObelicsConfig, f"{_PKG}.obelics:Obelics")
sources.declare("pairs", PairsConfig, f"{_PKG}.pairs:Pairs")
sources.declare("offline", OfflineConfig, f"{_PKG}.offline:Offline")
