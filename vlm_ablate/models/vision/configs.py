"""Vision encoders: configuration and registry. An encoder maps images to patch features (images, patches, width)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.registry import vision_encoders

_PKG = "vlm_ablate.models.vision"


class HubVisionConfig(ComponentConfig):
    """Any Hugging Face vision model, by hub id or local path."""

    name: Literal["hf"] = "hf"
    id: str
    """Hub id or local folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    layer: int = -1
    """Which hidden state feeds the connector: -1 is the last (after the final norm), -2 the one before, ..."""
    trust_remote_code: bool = False
    """Run code from the hub. Off unless you write it."""
    class_token: Literal["drop", "keep"] = added("drop")
    """What becomes of tokens that are no patch. Kept (Idefics1), they come first and the features are one row."""


class MllamaVisionConfig(ComponentConfig):
    """The two-stage encoder of an Mllama checkpoint, each view an image of one tile: patches and class token in one
    row."""

    name: Literal["mllama"] = "mllama"
    id: str
    """Hub id or local folder of the whole checkpoint."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    tiles: Literal["first", "all"] = added("first")
    """"all" gives the empty tiles too, after the view's own: Mllama's text sees them before its first image."""


class SiglipNativeConfig(ComponentConfig):
    """SigLIP with Idefics2's variable-resolution position ids: any aspect ratio up to `image_size`."""

    name: Literal["siglip-native"] = "siglip-native"
    id: str
    """Hub id or local folder of a SigLIP checkpoint, or of an Idefics2/Idefics3 one."""
    revision: str | None = None
    image_size: int | None = Field(None, gt=0)
    """Side in pixels of the position table; a smaller table of the checkpoint is interpolated. None keeps it."""
    patches: Literal["full", "any"] = "full"
    """A patch counts when all its pixels are real ("full", Idefics2) or any is ("any", Idefics3)."""


vision_encoders.declare("hf", HubVisionConfig, f"{_PKG}.hf:HubVisionEncoder")
vision_encoders.declare("mllama", MllamaVisionConfig, f"{_PKG}.mllama:MllamaVisionEncoder")
vision_encoders.declare("siglip-native", SiglipNativeConfig, f"{_PKG}.siglip:SiglipNativeEncoder")
