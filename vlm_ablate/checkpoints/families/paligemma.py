"""PaliGemma 1 and 2: SigLIP, one linear layer, Gemma with a prompt that attends both ways."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import Family, Inputs, Parts
from vlm_ablate.checkpoints.families.llava import PROJECTOR, TOWER_AND_TEXT
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM


class PaliGemma(Family):
    """Everything before the first supervised token is the prompt, as `token_type_ids` mark it there."""

    model_types = ("paligemma",)

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        return {
            "vision": {"name": "hf", "id": id},
            "connector": {"name": "linear"},
            "architecture": {"name": "autoregressive", "prompt": "bidirectional"},
        }

    def names(self, config: PretrainedConfig) -> Renaming:
        return Renaming((*TOWER_AND_TEXT, (PROJECTOR, "connector.")))

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        prompt = torch.zeros_like(batch.input_ids)  # everything is prompt, nothing is to be predicted
        pixels = {} if batch.pixel_values is None else {"pixel_values": batch.pixel_values.to(model.dtype)}
        return {"token_type_ids": prompt, **pixels}
