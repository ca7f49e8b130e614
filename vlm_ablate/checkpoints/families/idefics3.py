"""Idefics3 (arXiv:2408.12637) and SmolVLM: SigLIP on tiles, pixel shuffle and one linear layer, any decoder."""

from __future__ import annotations

from transformers import Idefics3Config, Idefics3ForConditionalGeneration, PretrainedConfig

from vlm_ablate.checkpoints.families.base import Parts
from vlm_ablate.checkpoints.families.siglip_family import SiglipFamily
from vlm_ablate.models.vlm import VLM


class Idefics3(SiglipFamily):
    """Tiles with their positions, and the small original."""

    model_types = ("idefics3", "smolvlm")
    connector, cuts = "pixel_shuffle", "Idefics3"
    cls = Idefics3ForConditionalGeneration

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        return {
            "vision": {"name": "siglip-native", "id": id, "patches": "any"},
            "connector": {"name": "pixel_shuffle", "factor": config.scale_factor},
            "architecture": {"name": "autoregressive"},
        }

    def refusal(self, vlm: VLM) -> str | None:
        if (common := super().refusal(vlm)) is not None:
            return common
        # The rule of patch validity speaks of padded views only.
        if vlm.views.padded and vlm.vision.patches != "any":
            return "Idefics3 counts a patch when any of its pixels is real (model.vision.patches: any)"
        return None

    def config(self, vlm: VLM) -> Idefics3Config:
        common = self.common(vlm)
        common["vision_config"].pop("model_type", None)
        return Idefics3Config(scale_factor=vlm.config.connector.factor, **common)
