"""What Idefics2 and Idefics3 share: a SigLIP of any resolution, names of tensors, image blocks, a plain decoder."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any, ClassVar, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import ExportFamily, Inputs, scales_logits, slots
from vlm_ablate.checkpoints.families.processors import tiled_images, whole_images
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vision.siglip import native_config
from vlm_ablate.models.vlm import VLM

PREFIXES = {
    "model.vision_model.": "vision.backbone.",
    "model.connector.": "connector.",
    "model.text_model.": "language.model.model.",
    "lm_head.": "language.model.lm_head.",
}
"""Prefix in transformers' Idefics2, Idefics3 and SmolVLM checkpoints -> prefix here."""


class SiglipFamily(ExportFamily):
    """Base of Idefics2 and Idefics3."""

    laid_out = True
    cuts: ClassVar[str]
    """Beginning of the class of its own image processor."""

    def images(self, config: PretrainedConfig, said: dict[str, Any]) -> ImageConfig:
        # How images are cut is the processor's, not the model's: either may stand in a folder of either.
        if not said:
            return super().images(config, said)
        kind = said.get("image_processor_type") or said.get("processor_class") or ""
        cuts = next((name for name in ("Idefics2", "Idefics3", "SmolVLM") if name in str(kind)), self.cuts)
        return whole_images(said) if cuts == "Idefics2" else tiled_images(said, config.vision_config.image_size)

    def unlike(self, said: dict[str, Any]) -> str:
        return ""  # else it was refused

    def names(self, config: PretrainedConfig) -> Renaming:
        return Renaming(tuple((re.escape(theirs), ours) for theirs, ours in PREFIXES.items()))

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        if batch.pixel_values is None:
            return {}
        filled, places = slots(batch, model.dtype)
        mask = torch.zeros(*filled.shape[:2], *filled.shape[3:], dtype=torch.bool)
        for view, place in enumerate(places):
            mask[place] = True if batch.pixel_mask is None else batch.pixel_mask[view]
        return {"pixel_values": filled, "pixel_attention_mask": mask}

    def refusal(self, vlm: VLM) -> str | None:
        config = vlm.config
        if config.architecture.name != "autoregressive":
            return f"no class takes any language model with the {config.architecture.name!r} architecture"
        if config.architecture.prompt != "causal":
            return "Idefics2 and Idefics3 attend causally everywhere (model.architecture.prompt: causal)"
        if (tower := _tower_problem(vlm)) is not None:
            return tower
        text = vlm.language.model.config
        if scales_logits(text):
            return f"the {text.model_type!r} head changes its logits, which no vision-language class does"
        return None

    def common(self, vlm: VLM) -> dict[str, Any]:
        """Fields of both configurations."""
        text = deepcopy(vlm.language.model.config)
        text.vocab_size = vlm.language.vocabulary
        return {
            "vision_config": native_config(cast(PreTrainedModel, vlm.vision.backbone).config, None).to_dict(),
            "text_config": text.to_dict(),
            "image_token_id": vlm.image_token_id,
            "tie_word_embeddings": text.tie_word_embeddings,
        }


def _tower_problem(vlm: VLM) -> str | None:
    """Why the vision encoder is not Idefics2's and Idefics3's; None when it is, or computes the same."""
    vision = vlm.vision
    if hasattr(vision, "patches"):
        return None
    tower = vision.backbone.config if isinstance(vision.backbone, PreTrainedModel) else None
    if tower is None or tower.model_type != "siglip_vision_model":
        return f"no class has the vision encoder {vision.config.name!r} in front of any connector"
    if getattr(vision.config, "layer", -1) != -1:
        return "Idefics2 and Idefics3 read the last layer of the tower (model.vision.layer: -1)"
    side = tower.image_size // tower.patch_size
    if vlm.views.padded or vlm.vision.grid(vlm.views.side, vlm.views.side) != (side, side):
        return "the tower interpolates its positions, where Idefics2 and Idefics3 bucket them (siglip-native)"
    return None
