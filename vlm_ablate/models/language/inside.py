"""The plain causal language model inside a vision-language checkpoint whose own text model is more than that."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from vlm_ablate.models.pretrained import read_named, tensor_names
from vlm_ablate.models.renaming import Renaming, Rules

TEXT = r"(?:model\.)?language_model\.(?:model\.)?"
"""Start of the names of a decoder's tensors in files old and new."""
TEXT_HEAD = (r"(?:language_model\.)?lm_head\.", "language.model.lm_head.")


def _idefics_text(full: PretrainedConfig) -> Rules:
    return (
        (r"model\.embed_tokens\.additional_embedding\.", "language.model.model.embed_tokens."),
        (r"lm_head\.additional_fc\.", "language.model.lm_head."),
        (r"lm_head\.", "language.model.lm_head."),
        (r"model\.(?=embed_tokens\.|layers\.|norm\.)", "language.model.model."),
    )


def _mllama_text(full: PretrainedConfig) -> Rules:
    crossing = set(full.text_config.cross_attention_layers)
    own = [index for index in range(full.text_config.num_hidden_layers) if index not in crossing]
    layers = ((rf"{TEXT}layers\.{index}\.", f"language.model.model.layers.{ours}.") for ours, index in enumerate(own))
    return (*layers, TEXT_HEAD, (rf"{TEXT}(?=embed_tokens\.|norm\.)", "language.model.model."))


WELDED: dict[str, Callable[[PretrainedConfig], Rules]] = {"idefics": _idefics_text, "mllama": _mllama_text}
"""Families whose decoder has cross-attention layers in it -> the names of what is left without them, a Llama."""
MLLAMA_EXTRA_ROWS = 8
"""Rows of Mllama's embedding that its output head lacks: the image token and padding."""
_LLAMA_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "vocab_size",
)


def text_config(full: PretrainedConfig) -> PretrainedConfig | None:
    """The configuration of the causal language model in `full`; None when `full` is one itself."""
    text = full if full.model_type == "idefics" else getattr(full, "text_config", None)
    if text is None:
        return None
    if full.model_type == "paligemma":
        # Their prompt attends both ways, which is the architecture's to say here; the decoder is a causal one.
        text = deepcopy(text)
        text.use_bidirectional_attention = False
    if full.model_type not in WELDED:
        return text
    values = {name: getattr(text, name) for name in _LLAMA_FIELDS if hasattr(text, name)}
    layers = text.num_hidden_layers - len(getattr(text, "cross_attention_layers", ()))
    config = LlamaConfig(**values, num_hidden_layers=layers)
    config.vocab_size += getattr(text, "additional_vocab_size", 0)
    return config


def fit_tables(model: PreTrainedModel, full: PretrainedConfig) -> None:
    """Give a model made from `text_config(full)` the tables of the checkpoint, where they are not of one size."""
    if full.model_type == "mllama":
        table = cast(nn.Embedding, model.get_input_embeddings())
        rows, width = table.weight.shape
        rows += MLLAMA_EXTRA_ROWS
        weight = table.weight.new_empty(rows, width)
        model.set_input_embeddings(nn.Embedding(rows, width, padding_idx=table.padding_idx, _weight=weight))


def welded_tensors(folder: Path, full: PretrainedConfig) -> dict[str, Tensor]:
    """Tensors of the Llama in a checkpoint of `WELDED`, by its own names."""
    prefix = "language.model."
    placed, _ = Renaming(WELDED[full.model_type](full)).group(tensor_names(folder))
    tensors = read_named(folder, chain(*placed.values()))
    return {ours.removeprefix(prefix): torch.cat([tensors[name] for name in theirs]) for ours, theirs in placed.items()}
