"""LLaVA: CLIP, a two-layer MLP, a Llama."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import Family, Inputs, Parts
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.language.inside import TEXT, TEXT_HEAD
from vlm_ablate.models.renaming import Renaming, Rules
from vlm_ablate.models.vlm import VLM

TOWER_AND_TEXT: Rules = (
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision.backbone."),
    TEXT_HEAD,
    (TEXT, "language.model.model."),
)
PROJECTOR = r"(?:model\.)?multi_modal_projector\."


class Llava(Family):
    """LLaVA 1.5 and its kin with one view an image."""

    model_types = ("llava",)

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        layer = config.vision_feature_layer
        if not isinstance(layer, int):
            raise ModelError(f"{id!r} reads several layers of its vision tower: {layer}")
        if layer >= 0:
            raise ModelError(f"{id!r} counts its vision layer from the first: {layer}")
        kept = "keep" if config.vision_feature_select_strategy == "full" else "drop"
        return {
            "vision": {"name": "hf", "id": id, "layer": layer, "class_token": kept},
            "connector": {
                "name": "mlp",
                "activation": config.projector_hidden_act,
                "bias": config.multimodal_projector_bias,
            },
            "architecture": {"name": "autoregressive"},
        }

    def names(self, config: PretrainedConfig) -> Renaming:
        return Renaming((*TOWER_AND_TEXT, (PROJECTOR, "connector.modality_projection.")))

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        return {} if batch.pixel_values is None else {"pixel_values": batch.pixel_values.to(model.dtype)}
