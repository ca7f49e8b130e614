"""What LLaVA and PaliGemma share: whole squares of the tower's own size, one view an image, a plain decoder."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

from transformers import PretrainedConfig, PreTrainedModel, SiglipVisionConfig

from vlm_ablate.checkpoints.families.base import ExportFamily, Inputs
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.language.inside import TEXT, TEXT_HEAD
from vlm_ablate.models.renaming import Rules
from vlm_ablate.models.vision.hf import HubVisionEncoder
from vlm_ablate.models.vision.inside import TOWER_FIELDS
from vlm_ablate.models.vision.siglip import NativeSiglip
from vlm_ablate.models.vlm import VLM

TOWER_AND_TEXT: Rules = (
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision.backbone."),
    TEXT_HEAD,
    (TEXT, "language.model.model."),
)
PROJECTOR = r"(?:model\.)?multi_modal_projector\."
_SIGLIP, _CLIP = "siglip_vision_model", "clip_vision_model"


class SquareFamily(ExportFamily):
    """Base of LLaVA and PaliGemma."""

    text_module = "language_model"

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        return {} if batch.pixel_values is None else {"pixel_values": batch.pixel_values.to(model.dtype)}

    def refusal(self, vlm: VLM) -> str | None:
        config, connector = vlm.config, vlm.config.connector.name
        if config.architecture.name != "autoregressive":
            return f"no class takes any language model with the {config.architecture.name!r} architecture"
        if (tower := tower_config(vlm)) is None:
            return f"no class has the vision encoder {config.vision.name!r} before the connector {connector!r}"
        if vlm.views.padded or vlm.views.tiled or vlm.views.side != tower.image_size:
            return (
                f"the class with the connector {connector!r} takes whole squares of {tower.image_size} px, the size of"
                " its tower (data.image)"
            )
        return None

    def common(self, vlm: VLM) -> dict[str, Any]:
        """Fields of both configurations."""
        text = deepcopy(vlm.language.model.config)
        text.vocab_size = vlm.language.vocabulary
        tower = tower_config(vlm)
        assert tower is not None  # else it was refused
        return {
            "vision_config": tower.to_dict(),
            "text_config": text.to_dict(),
            "image_token_index": vlm.image_token_id,
            "tie_word_embeddings": text.tie_word_embeddings,
        }


def tower_config(vlm: VLM) -> PretrainedConfig | None:
    """The tower as a SigLIP or CLIP of transformers, without a pooling head; None where it is neither."""
    vision = vlm.vision
    config = cast(PreTrainedModel, vision.backbone).config if hasattr(vision, "backbone") else None
    if isinstance(vision, NativeSiglip):
        fields = {name: getattr(config, name) for name in TOWER_FIELDS if hasattr(config, name)}
        return SiglipVisionConfig(**fields, vision_use_head=False)
    if not isinstance(vision, HubVisionEncoder) or config is None or config.model_type not in (_SIGLIP, _CLIP):
        return None
    found = deepcopy(config)
    if is_siglip(found):
        found.vision_use_head = False
    return found


def is_siglip(tower: PretrainedConfig) -> bool:
    """Whether a tower is SigLIP's: no class token, and a norm after its last layer."""
    return bool(tower.model_type == _SIGLIP)
