"""A plug-in with a data source and a benchmark of coloured squares, and specs of tiny runs over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.config.experiment import RunConfig, Seeds
from vlm_ablate.config.shared_data import composed, run_data
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.data.sources.base import AssetRecord, Source
from vlm_ablate.errors import AssetMissing
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.registry import benchmarks, sources
from vlm_ablate.runs.spec import RunSpec

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def square(seed: int) -> tuple[str, ImageRef]:
    """A noisy square and the name of its colour."""
    rng = np.random.default_rng(seed)
    name = list(COLOURS)[rng.integers(3)]
    noise = rng.integers(-20, 20, (16, 16, 3))
    return name, ImageRef(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8), f"square {seed}")


class SquareSourceConfig(ComponentConfig):
    """Squares with a question."""

    name: Literal["squares"] = "squares"
    rows: int = 50
    missing: bool = False


@sources.register("squares", SquareSourceConfig)
class SquareSource(Source):
    """Question and answer about one square."""

    def __init__(self, config: SquareSourceConfig) -> None:
        super().__init__(config)
        if config.missing:
            raise AssetMissing("the squares are not installed", hint="install the squares")

    def __len__(self) -> int:
        return self.config.rows

    def __getitem__(self, index: int) -> Sample:
        name, ref = square(index)
        return Sample(
            f"squares/{index}", (Image(ref), Text("Question: what colour Answer:"), Text(f" {name}", True)), "squares"
        )

    @property
    def fingerprint(self) -> str:
        return f"squares-{self.config.rows}"

    @property
    def licences(self) -> list[AssetRecord]:
        return [AssetRecord("squares", "none", "1", "CC0-1.0", "nobody", "0" * 64)]


class SquareBenchmarkConfig(ComponentConfig):
    """Squares to be named."""

    name: Literal["squares"] = "squares"
    items: int = 8


@benchmarks.register("squares", SquareBenchmarkConfig)
class SquareBenchmark(Benchmark):
    """What colour is it?"""

    metric_name = "exact_match"
    max_new_tokens = 2

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        first = {"train": 1000, "tune": 2000, "report": 3000}[split]
        named = [square(first + i) for i in range(self.config.items)]
        return [
            BenchmarkItem(f"{split}/{i}", (ref,), "what colour", (name,), name) for i, (name, ref) in enumerate(named)
        ]


def save_parts(folder: Path) -> None:
    """A random Llama with a word-level tokeniser and a random SigLIP, as local Hugging Face folders."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "\n", "Question:", "Answer:", "what", "colour", *COLOURS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "lm")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, attention_dropout=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    ).save_pretrained(folder / "lm")  # fmt: skip
    SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    ).save_pretrained(folder / "vision")


STAGE: dict[str, Any] = dict(steps=6, batch_size=4, learning_rate=1e-2)
EXECUTION: dict[str, Any] = dict(micro_batch_size=2, checkpoint_every=2, log_every=2, evaluation_batch_size=4)


def make_spec(parts: Path, *, seed: int = 0, arm: str = "mlp", stages: dict | None = None, connector: Any = None,
              source: dict | None = None, architecture: str = "autoregressive", experiment: str = "tests/squares",
              execution: dict | None = None, **evaluation: Any) -> RunSpec:  # fmt: skip
    """A run of seconds that learns something: twelve steps in full, four of LoRA, and eight questions."""
    config = {
        "model": {
            "vision": {"name": "siglip-native", "id": str(parts / "vision")},
            "language": {"name": "hf", "id": str(parts / "lm")},
            "connector": connector or "linear",
            "architecture": architecture,
        },
        "data": {
            "mixture": {"squares": {"source": {"name": "squares"} | (source or {})}},
            "image": {"size": 16},
            "sequence_length": 64,
        },
        "stages": stages
        or {
            "align": STAGE | {"steps": 12, "language": "full"},
            "tune": STAGE | {"steps": 4, "language": "lora", "lora": {"r": 2, "dropout": 0.1}, "neftune_alpha": 5.0},
        },
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 1} | evaluation,
        "execution": EXECUTION | (execution or {}),
    }
    seeds = Seeds(init=seed, data=seed, dropout=seed)
    run = RunConfig.model_validate(run_data(composed(config)))
    return RunSpec(experiment, arm, arm, seed, "test", run, seeds, ("training.squares",))
