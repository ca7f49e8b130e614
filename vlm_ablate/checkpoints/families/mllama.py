"""Mllama (Llama 3.2 Vision): its own tower, one linear layer, cross-attention layers among those of a Llama."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import Family, Inputs, Parts, slots
from vlm_ablate.checkpoints.families.squares import PROJECTOR
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.language.inside import TEXT, WELDED
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM


class Mllama(Family):
    """Each cross-attention layer is a gated block before the next layer; each view an image of one tile."""

    model_types = ("mllama",)
    own_placeholder = True
    row_by_row = True

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        crossing = sorted(config.text_config.cross_attention_layers)
        return {
            "vision": {"name": "mllama", "id": id, "tiles": "all"},
            "connector": {"name": "linear"},
            "architecture": {
                "name": "cross_attention",
                "before": [index - place for place, index in enumerate(crossing)],
                "qk_norm": True,
                "attend": "last",
                "visual_width": "language",
                "unseeing": "all",
            },
        }

    def names(self, config: PretrainedConfig) -> Renaming:
        rules = []
        for block, index in enumerate(sorted(config.text_config.cross_attention_layers)):
            layer, ours = rf"{TEXT}layers\.{index}\.", f"architecture.blocks.{block}."
            rules += [
                (layer + r"cross_attn_attn_gate", ours + "alpha_cross_attn"),
                (layer + r"cross_attn_mlp_gate", ours + "alpha_dense"),
                (layer + r"(?:cross_attn\.|mlp\.)?", ours),
            ]
        return Renaming(
            (
                *rules,
                (r"(?:model\.)?vision_model\.", "vision.backbone."),
                (PROJECTOR, "connector.linear."),
                *WELDED["mllama"](config),
            )
        )

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        from transformers.models.mllama.processing_mllama import (
            convert_sparse_cross_attention_mask_to_dense,
            get_cross_attention_token_mask,
        )

        theirs = model.config.image_token_index
        ids = batch.input_ids.masked_fill(batch.input_ids == vlm.image_token_id, theirs)
        if batch.pixel_values is None:
            return {"input_ids": ids}
        filled, places = slots(batch, model.dtype)
        tiles, (rows, images) = model.config.vision_config.max_num_tiles, filled.shape[:2]
        tiled = torch.zeros(rows, images, tiles, *filled.shape[2:], dtype=filled.dtype)
        tiled[:, :, 0] = filled
        ratio, real = torch.zeros(rows, images, dtype=torch.long), torch.zeros(rows, images, tiles, dtype=torch.long)
        real[..., 0] = 1  # as transformers' image processor leaves it for missing images
        for place in places:
            ratio[place] = 1
        sparse = [get_cross_attention_token_mask(row, theirs) for row in ids.tolist()]
        counts = [[1] * len(row) for row in sparse]
        dense = convert_sparse_cross_attention_mask_to_dense(sparse, counts, tiles, ids.shape[1])
        pixels = {"pixel_values": tiled, "aspect_ratio_ids": ratio, "aspect_ratio_mask": real}
        return {"input_ids": ids, "cross_attention_mask": torch.tensor(dense), **pixels}
