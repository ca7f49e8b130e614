"""The shipped small Llama decoder."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.hf import read_tokenizer
from vlm_ablate.models.pretrained import read_config, stand_in
from vlm_ablate.offline.configs import LlamaNanoConfig


class LlamaNano(LanguageModel):
    """The stand-in language model, in the quality asked for, or at random with the same tokeniser."""

    def __init__(
        self, config: LlamaNanoConfig, *, load_weights: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(config, load_weights=load_weights, dtype=dtype)
        pretrained = load_weights and config.weights == "pretrained"
        folder = stand_in(f"llama-nano-{config.quality}", file="model.safetensors" if pretrained else "config.json")
        if pretrained:
            self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
        else:
            with torch.device("cpu" if load_weights else "meta"):
                self.model = AutoModelForCausalLM.from_config(
                    read_config(str(folder), planning=True), dtype=dtype
                )
        self.tokenizer = read_tokenizer(folder, needed=True)
