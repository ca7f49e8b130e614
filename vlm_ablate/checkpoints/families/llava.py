"""LLaVA: CLIP (or SigLIP), a two-layer MLP, a Llama or another plain decoder."""

from __future__ import annotations

from transformers import LlavaConfig, LlavaForConditionalGeneration, PretrainedConfig

from vlm_ablate.checkpoints.families.base import Parts, scales_logits
from vlm_ablate.checkpoints.families.squares import PROJECTOR, TOWER_AND_TEXT, SquareFamily, is_siglip, tower_config
from vlm_ablate.errors import ModelError
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM


class Llava(SquareFamily):
    """LLaVA 1.5 and its kin with one view an image."""

    model_types = ("llava",)
    connector = "mlp"
    cls = LlavaForConditionalGeneration

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        layer = config.vision_feature_layer
        if not isinstance(layer, int):
            raise ModelError(f"{id!r} reads several layers of its vision tower: {layer}")
        if layer >= 0:
            raise ModelError(f"{id!r} counts its vision layer from the first: {layer}")
        full = config.vision_feature_select_strategy == "full"
        kept = "keep" if full and not is_siglip(config.vision_config) else "drop"
        if is_siglip(config.vision_config) and (layer == -1 or not full):
            what = "its first patch is dropped" if not full else "its last layer is read before the tower's norm"
            raise ModelError(f"{id!r} has a SigLIP tower, and {what}")
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

    def refusal(self, vlm: VLM) -> str | None:
        if (common := super().refusal(vlm)) is not None:
            return common
        config, text = vlm.config, vlm.language.model.config
        if config.architecture.prompt != "causal":
            return "LLaVA attends causally everywhere (model.architecture.prompt: causal)"
        if config.connector.gated:
            return "LLaVA's projector is a plain MLP (model.connector.gated: false)"
        if scales_logits(text):
            return f"the {text.model_type!r} head changes its logits, which LLaVA does not"
        tower = tower_config(vlm)
        if tower is not None and is_siglip(tower) and getattr(config.vision, "layer", -1) == -1:
            return "LLaVA reads SigLIP's last layer before its norm (write model.vision: {name: hf, layer: -2})"
        return None

    def config(self, vlm: VLM) -> LlavaConfig:
        connector, vision, tower = vlm.config.connector, vlm.config.vision, tower_config(vlm)
        dropped = tower is not None and not is_siglip(tower) and vision.class_token == "drop"
        return LlavaConfig(
            projector_hidden_act=connector.activation,
            multimodal_projector_bias=connector.bias,
            vision_feature_layer=vision.layer,
            vision_feature_select_strategy="default" if dropped else "full",
            image_seq_length=vlm.placeholders(vlm.views.side, vlm.views.side),
            **self.common(vlm),
        )
