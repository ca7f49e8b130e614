"""A tiny real model over local Hugging Face checkpoints, and a benchmark of coloured squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import benchmarks

WORDS = "Question: Answer: Caption: what colour number is it red green blue cat dog one two three".split()


class SquaresConfig(ComponentConfig):
    """Coloured squares."""

    name: str = "test_squares"
    items: int = 12


class Squares(Benchmark):
    """What colour is item i?"""

    metric_name = "exact_match"
    max_new_tokens = 4

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        rng = np.random.default_rng(["train", "tune", "report"].index(split))
        colours = rng.integers(0, 255, (self.config.items, 3), dtype=np.uint8)
        return [
            BenchmarkItem(
                id=f"{split}/{i}",
                images=(ImageRef(np.broadcast_to(colour, (20 + i, 24, 3)).copy(), f"{split}/{i}"),),
                question="what colour" + " is it" * (i % 3),
                references=("red", "cat"),
                answer="red" if i % 2 else "blue",
            )
            for i, colour in enumerate(colours)
        ]


if "test_squares" not in benchmarks:
    benchmarks.declare("test_squares", SquaresConfig, Squares)


def save_checkpoints(folder: Path) -> None:
    """A random Llama with a word-level tokeniser, and a random SigLIP."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "\n", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder / "llama")
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    ids = dict(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **ids, initializer_range=0.4)).save_pretrained(folder / "llama")
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder / "siglip")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `llama` and `siglip`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoints(folder)
    return folder


@pytest.fixture(scope="session")
def data_config() -> DataConfig:
    """Square images of 16 px, plain prompts."""
    return DataConfig.model_construct(mixture={}, image=ImageConfig(size=16), sequence_length=64, prompt="plain")


def tiny_vlm(checkpoints: Path, image: ImageConfig, architecture: str = "autoregressive") -> VLM:
    """A model of the tiny checkpoints with a linear connector."""
    config = ModelConfig.model_validate(
        {
            "vision": {"name": "hf", "id": str(checkpoints / "siglip")},
            "language": {"name": "hf", "id": str(checkpoints / "llama")},
            "connector": "linear",
            "architecture": architecture,
        }
    )
    return build_vlm(config, Views.of([image]))


@pytest.fixture(scope="session", params=["autoregressive", "cross_attention"])
def vlm(request: pytest.FixtureRequest, checkpoints: Path, data_config: DataConfig) -> VLM:
    """The tiny model in both architectures; gates opened so that images matter."""
    model = tiny_vlm(checkpoints, data_config.image, request.param)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name.rsplit(".", 1)[-1]:
                parameter.fill_(1.0)
    return model
