"""The first Idefics: CLIP, a resampler, gated cross-attention blocks between the layers of a Llama."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import Family, Inputs, Parts, resampler, slots
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.language.inside import WELDED
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.tokens import FAKE
from vlm_ablate.models.vlm import VLM

_RESAMPLER = {
    r"0\.context_layer_norm": "input_context_norm",
    r"0\.latents_layer_norm": "input_latents_norm",
    r"0\.q_layer_norm": "self_attn.q_norm",
    r"0\.k_layer_norm": "self_attn.k_norm",
    r"0\.output_proj": "self_attn.o_proj",
    r"0\.": "self_attn.",
    r"1\.ln": "post_attention_layernorm",
    r"1\.fc": "mlp.linear_1",
    r"1\.c_proj": "mlp.linear_2",
}


class Idefics(Family):
    """With a resampler; rows are one document."""

    model_types = ("idefics",)
    around = FAKE

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        if not config.use_resampler:
            raise ModelError(
                f"{id!r} has no resampler: its blocks read the patches themselves, which no connector gives"
            )
        perceiver = config.perceiver_config
        return {
            "vision": {"name": "hf", "id": id, "class_token": "keep"},
            "connector": {
                **resampler(perceiver),
                "kv_heads": perceiver.resampler_n_heads,
                "qk_norm": perceiver.qk_layer_norms_perceiver,
                "projection": "none",
                "norm": "layer",
                "norm_eps": 1e-5,
                "mlp": "relu",
            },
            "architecture": {
                "name": "cross_attention",
                "every": config.cross_layer_interval,
                "gate": "scalar" if config.alpha_type == "float" else "vector",
                "qk_norm": config.qk_layer_norms,
            },
        }

    def names(self, config: PretrainedConfig) -> Renaming:
        block, ours = r"model\.gated_cross_attn_layers\.(\d+)\.", r"architecture.blocks.\1."
        layer = r"model\.perceiver_resampler\.blocks\.(\d+)\."
        return Renaming(
            (
                (block + r"cross_attn\.([qk])_layer_norm\.", ours + r"\2_norm."),
                (block + r"(?:cross_attn\.|mlp\.)?", ours),
                *((layer + old, rf"connector.perceiver_resampler.layers.\1.{new}") for old, new in _RESAMPLER.items()),
                (r"model\.perceiver_resampler\.layer_norm\.", "connector.perceiver_resampler.norm."),
                (r"model\.perceiver_resampler\.", "connector.perceiver_resampler."),
                (r"model\.vision_model\.", "vision.backbone."),
                *WELDED["idefics"](config),
            )
        )

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        from transformers.models.idefics.processing_idefics import (
            image_attention_mask_for_packed_input_ids,
            incremental_to_binary_attention_mask,
        )

        rows, side = len(batch.input_ids), vlm.views.side
        if batch.pixel_values is None:
            filled = torch.zeros(rows, 1, 3, side, side, dtype=model.dtype)
        else:
            filled, _ = slots(batch, model.dtype)
        incremental, _ = image_attention_mask_for_packed_input_ids(batch.input_ids, vlm.tokenizer, "pt")
        mask = incremental_to_binary_attention_mask(incremental, "pt", num_classes=filled.shape[1])
        return {"pixel_values": filled, "image_attention_mask": mask}
