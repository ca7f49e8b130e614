"""Any Hugging Face causal language model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from vlm_ablate.config.components.language import HubLanguageConfig
from vlm_ablate.errors import AssetMissing
from vlm_ablate.models.hub import config_folder, read_config
from vlm_ablate.models.language.base import LanguageModel


class HubLanguageModel(LanguageModel):
    """A causal language model of transformers with its tokeniser, by hub id or local folder."""

    def __init__(self, config: HubLanguageConfig, *, load_weights: bool = True) -> None:
        super().__init__(config, load_weights=load_weights)
        folder = config_folder(config.id, config.revision, planning=not load_weights)
        trust = config.trust_remote_code
        if load_weights:
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=trust, local_files_only=True, dtype=torch.float32
            )
        else:
            model_config = read_config(config.id, config.revision, planning=True, trust_remote_code=trust)
            with torch.device("meta"):
                self.model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust)
        self.tokenizer = read_tokenizer(folder, needed=load_weights, trust_remote_code=trust)


def read_tokenizer(folder: Path, *, needed: bool, trust_remote_code: bool = False) -> PreTrainedTokenizerBase | None:
    """The tokeniser in a folder; None when there is none and it is not `needed`.

    Raises:
        AssetMissing: it is needed and not there.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        if needed:
            raise AssetMissing(f"{folder} holds no tokeniser that transformers can read: {error}") from error
        return None
    if tokenizer.pad_token is None:
        # A padding id is never attended to nor scored; the end of text is in every vocabulary.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
