"""Data sources: one record schema each, all becoming `Sample`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.config.components import source_configs as records
from vlm_ablate.config.components.offline_tasks import Tasks
from vlm_ablate.registry import Registry

sources: Registry = Registry("data source")

_PKG = "vlm_ablate.data.sources"


class OfflineConfig(ComponentConfig):
    """Questions and captions on pictures composed from what pip and Debian packages carry; exact answers, no hub."""

    name: Literal["offline"] = "offline"
    tasks: Tasks = {"vqa": 1.0, "knowledge": 1.0, "reading": 1.0, "captions": 1.0}
    """Task -> share of samples. All pictures of a sample belong to one task."""
    rows: int = Field(2400, gt=0)
    """Samples; a longer run goes round again."""
    pictures: int = Field(4, gt=0)
    """Pictures with a question each in one sample, so that training looks like few-shot evaluation."""
    described: float = Field(0.0, ge=0, le=1)
    """Share of samples whose pictures are followed by all that is in them instead of a question and its answer."""
    side: int = Field(64, ge=32)
    """Side in pixels of the composed pictures (pages: twice as tall)."""


sources.declare("offline", OfflineConfig, f"{_PKG}.offline:Offline")
sources.declare("cauldron", records.CauldronConfig, f"{_PKG}.cauldron:Cauldron")
sources.declare("docmatix", records.DocmatixConfig, f"{_PKG}.cauldron:Docmatix")
sources.declare("obelics", records.ObelicsConfig, f"{_PKG}.obelics:Obelics")
sources.declare("pairs", records.PairsConfig, f"{_PKG}.pairs:Pairs")
sources.declare("pages", records.PagesConfig, f"{_PKG}.pages:Pages")
sources.declare("rendered_text", records.RenderedTextConfig, f"{_PKG}.rendered_text:RenderedText")
sources.declare("websight", records.WebSightConfig, f"{_PKG}.websight:WebSight")
sources.declare("text_instructions", records.TextInstructionsConfig, f"{_PKG}.text_instructions:TextInstructions")
