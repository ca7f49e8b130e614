"""PaliGemma 1 and 2: SigLIP, one linear layer, Gemma with a prompt that attends both ways."""

from __future__ import annotations

import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import Inputs, Parts
from vlm_ablate.checkpoints.families.squares import PROJECTOR, TOWER_AND_TEXT, SquareFamily, is_siglip, tower_config
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM


class PaliGemma(SquareFamily):
    """Everything before the first supervised token is the prompt, as `token_type_ids` mark it there."""

    model_types = ("paligemma",)
    connector = "linear"
    cls = PaliGemmaForConditionalGeneration
    token_types = True

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
        return {"token_type_ids": prompt, **super().inputs(model, vlm, batch)}

    def refusal(self, vlm: VLM) -> str | None:
        config, text = vlm.config, vlm.language.model.config
        if config.architecture.name == "autoregressive" and config.architecture.prompt != "bidirectional":
            return (
                "no class has the connector 'linear' and attends causally to a prompt (PaliGemma's attends both ways:"
                " model.architecture.prompt: bidirectional)"
            )
        if (common := super().refusal(vlm)) is not None:
            return common
        if text.model_type not in ("gemma", "gemma2"):
            return f"PaliGemma's language model is a Gemma or Gemma 2, not a {text.model_type!r}"
        tower = tower_config(vlm)
        if tower is None or not is_siglip(tower) or getattr(config.vision, "layer", -1) != -1:
            return "PaliGemma reads the last layer of a SigLIP tower (model.vision.layer: -1)"
        if config.connector.tokens is not None or not config.connector.bias:
            return "PaliGemma's projector is one linear layer with a bias (model.connector: linear)"
        return None

    def config(self, vlm: VLM) -> PaliGemmaConfig:
        common = self.common(vlm)
        # Here the prompt's attention is the architecture's to say; there the decoder's configuration says it.
        common["text_config"]["use_bidirectional_attention"] = None
        width = vlm.language.hidden
        return PaliGemmaConfig(
            projection_dim=width, hidden_size=width, vocab_size=vlm.language.vocabulary, **common
        )
