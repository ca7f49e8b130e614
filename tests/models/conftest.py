"""Tiny random checkpoints made with transformers, and batches for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SENTENCE = "the a cat dog red blue sign says one two three what is it answer question yes no flag"
WORDS = SENTENCE.split()
VISION = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
)
TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def write_tokenizer(folder: Path, extra: list[str] | None = None) -> int:
    """A word-level tokeniser in `folder`; returns the size of its vocabulary."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if extra:
        fast.add_tokens(extra, special_tokens=True)
    fast.save_pretrained(folder)
    return len(fast)


def save_lm(folder: Path, config, padded: int = 0) -> Path:
    """A random causal LM of that configuration with a tokeniser; `padded` more rows than tokens."""
    config.vocab_size = write_tokenizer(folder) + padded
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama with grouped key/value heads and an output head of its own."""
    return save_lm(tmp_path_factory.mktemp("llama"), LlamaConfig(**TEXT, tie_word_embeddings=False))


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SigLIP's vision model with its pooling head."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(1)
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP: text and vision."""
    folder = tmp_path_factory.mktemp("clip")
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    torch.manual_seed(2)
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2 with a mask token that nothing reads."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = {k: v for k, v in VISION.items() if k != "intermediate_size"}
    torch.manual_seed(3)
    Dinov2Model(Dinov2Config(**config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mllama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Mllama, without a tokeniser."""
    folder = tmp_path_factory.mktemp("mllama")
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        patch_size=8,
        image_size=32,
        intermediate_layers_indices=[0],
        vision_output_dim=32,
    )
    torch.manual_seed(4)
    text = dict(TEXT, vocab_size=30, cross_attention_layers=[1])
    MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    return folder


TINY_TEXT = dict(
    hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
)  # fmt: skip
TINY_VISION = dict(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folders of a vision tower and a language model, large enough for activations to count."""
    folder = tmp_path_factory.mktemp("tiny")
    SiglipVisionModel(SiglipVisionConfig(**TINY_VISION)).save_pretrained(folder / "vision")
    save_lm(folder / "language", LlamaConfig(**TINY_TEXT, tie_word_embeddings=False), padded=1000)
    return {part: {"name": "hf", "id": str(folder / part)} for part in ("vision", "language")}
