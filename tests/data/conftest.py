"""A small byte-level and a small Llama-style tokenizer, and pictures of many kinds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PilImage
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlm_ablate.config.data import DataConfig
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.data.sources.base import Source

IMAGE_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
TILE_TOKENS = ["<global-img>", *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))]
CORPUS = [
    "What is the capital of France? Paris is the capital.",
    "Question: how many cats are on the mat? Answer: two cats",
    "User: describe the picture\nAssistant: a red circle and a blue square\n\n",
    "The weather in Bern is cold; the sea at Nice is 24 degrees.",
]


def make_tokenizer(kind: str = "bytes") -> PreTrainedTokenizerFast:
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        # Split for training, so that no merge spans words.
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    if kind != "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    added = [AddedToken(t, normalized=False, special=True) for t in IMAGE_TOKENS + TILE_TOKENS]
    fast.add_special_tokens({"additional_special_tokens": added})
    return fast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session", params=["bytes", "metaspace"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return make_tokenizer(request.param)


def picture(width: int, height: int, seed: int = 0) -> PilImage.Image:
    """A smooth gradient with noise and shapes, so that resampling errors show."""
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + y) % 256], axis=-1)
    base += rng.normal(0, 20, base.shape)
    return PilImage.fromarray(base.clip(0, 255).astype(np.uint8))


class Drawn(Source):
    """Rows that are drawn when asked for; rows in `broken` cannot be decoded."""

    def __init__(self, name: str, rows: int, *, images: int = 1, broken: frozenset[int] = frozenset(), side: int = 20):
        self.name, self.rows, self.images, self.broken, self.side = name, rows, images, broken, side

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Sample:
        name = f"{self.name}:{index}"
        content = b"broken" if index in self.broken else picture(self.side + index % 3, self.side, seed=index)
        segments = [Image(ImageRef(content, name))] * self.images
        return Sample(name, (*segments, Text("how many?"), Text(f" {index}", True)), self.name)

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.rows}"


def data_config(**fields: object) -> DataConfig:
    """A data section whose mixture is not read: tests give their own sources."""
    mixture = {"a": {"source": {"name": "cauldron", "id": "nowhere"}}}
    return DataConfig.model_validate({"mixture": mixture, "sequence_length": 4096, **fields})
