"""What every benchmark is: items by split, the template they are asked with, the metric they are scored with."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.metrics import Metric, metrics

if TYPE_CHECKING:
    from vlm_ablate.config.base import ComponentConfig
    from vlm_ablate.data.sample import ImageRef
    from vlm_ablate.provenance import AssetRecord

Split = Literal["train", "tune", "report"]


@dataclass(frozen=True)
class BenchmarkItem:
    """One question. `answer` is what a demonstration shows; `references` are what a prediction is scored against."""

    id: str
    images: tuple[ImageRef, ...]
    question: str
    references: tuple[str, ...]
    answer: str
    image_key: str = ""
    """Identity of the pictures, shared by items that show the same ones; "" stands for the item's id."""
    choices: tuple[str, ...] = ()
    """Texts of the lettered choices, if any; the template writes them as `A. ...`. "" leaves out a letter."""
    description: str = ""
    """The pictures in words, where they are known exactly; stands in their place when the ceiling is measured."""

    def picture_key(self, split: Split) -> str:
        """Identity of the pictures among those of all splits. Ids may be given again in another split."""
        return f"key {self.image_key}" if self.image_key else f"{split} {self.id}"


class Benchmark(ABC):
    """Base of all benchmarks. A subclass sets the class attributes and implements `items`."""

    metric_name: str
    template: str = "vqa"
    """Name in `evaluation/prompts.py`."""
    stop: tuple[str, ...] = ("\n", "Question", "User", "<end_of_utterance>")
    """An answer ends before the first of these (the papers' stop words, and the line end of the few-shot format)."""
    max_new_tokens: int = 15

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    @classmethod
    def asked_with(cls, config: ComponentConfig) -> tuple[str, str]:
        """Names of the template and of the metric under this configuration; known without the benchmark's material."""
        return getattr(config, "template", None) or cls.template, cls.metric_name

    @property
    def metric(self) -> Metric:
        """The scorer."""
        return metrics[self.metric_name]

    @property
    def licences(self) -> list[AssetRecord]:
        """Where the material comes from and under what terms, where that is known."""
        return []

    @abstractmethod
    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        """All items of a split in their fixed order (which `limit` cuts). May be lazy; images load when used.

        Raises:
            DataError: the split does not exist or cannot be read.
            AssetMissing: the material is not on this machine.
        """

    def open(self, split: Split) -> None:
        """Look for a split as far as is cheap, so that what is missing shows before anything is trained.

        Raises:
            DataError: as `items`, or the split is empty.
            AssetMissing: as `items`.
        """
        if not len(self.items(split)):
            raise DataError(f"benchmark {self.config.name!r}: split {split!r} is empty")

    def open_in_words(self, split: Split) -> None:
        """Look whether the pictures of a split are known in words, which measuring the ceiling needs.

        Raises:
            DataError: they are not; or as `open`.
            AssetMissing: as `items`.
        """
        first = next(iter(self.texts(split)), None)
        if first is not None and not first.description:
            raise DataError(
                f"benchmark {self.config.name!r}: item {first.id!r} of {split!r} has no description of its pictures, "
                "so that no ceiling can be measured",
                hint="--set evaluation.ceiling=false; where a scale asks for the ceiling, the experiment says "
                "otherwise by `scales: {NAME: {overrides: {evaluation: {ceiling: false}}}}`",
            )

    def split_hash(self, split: Split, limit: int | None = None) -> str:
        """Fingerprint of the (first `limit`) items: ids, picture keys, questions, choices, references; not pixels."""
        return hash_items(islice(self.texts(split), limit))

    def texts(self, split: Split) -> Sequence[BenchmarkItem]:
        """The items of a split, perhaps without their images where reading those is slow."""
        return self.items(split)

    def checked_items(self, split: Split, limit: int | None = None) -> Sequence[BenchmarkItem]:
        """The (first `limit`) items of a split that is fit to be scored.

        Raises:
            DataError: no items, an item without references, or two items with one id.
        """
        every = self.items(split)
        items = every[:limit] if limit is not None else every
        if not len(items):
            raise DataError(f"benchmark {self.config.name!r}: split {split!r} is empty")
        seen: set[str] = set()
        for item in islice(self.texts(split), limit):
            if not item.references:
                raise DataError(f"benchmark {self.config.name!r}: item {item.id!r} of {split!r} has no references")
            if item.id in seen:
                raise DataError(f"benchmark {self.config.name!r}: two items of {split!r} have the id {item.id!r}")
            seen.add(item.id)
        return items


def hash_items(items: Iterable[BenchmarkItem]) -> str:
    """First 16 hex digits of a SHA-256 over everything of the items but their pixels, in order."""
    digest = hashlib.sha256()
    for item in items:
        body = [item.id, item.image_key, item.question, item.choices, item.references, item.answer]
        digest.update(json.dumps(body, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]
