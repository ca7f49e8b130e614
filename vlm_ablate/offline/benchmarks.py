"""Benchmarks on composed pictures: four that mirror the paper's four, and page reading."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vlm_ablate.data.sample import ImageRef
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.offline.configs import OfflineBenchmarkConfig
from vlm_ablate.offline.store import item_store
from vlm_ablate.offline.tasks import licence_records, share_out
from vlm_ablate.provenance import AssetRecord


class _Offline(Benchmark):
    """Items of one or several tasks; no picture, flag, digit, table, map or document is in two splits.

    Some flags are drawn alike: those of Chad (train) and Romania (tune), and of three pairs of one split.

    Raises:
        AssetMissing: on construction, when the material of a task is not on this machine.
    """

    config: OfflineBenchmarkConfig
    max_new_tokens = 12

    def __init__(self, config: OfflineBenchmarkConfig) -> None:
        super().__init__(config)
        self._licences = licence_records(config.tasks)

    def open_in_words(self, split: Split) -> None:
        """What is composed is known in words."""

    @property
    def licences(self) -> list[AssetRecord]:
        return self._licences

    def open(self, split: Split) -> None:
        """Every split can be drawn from the material that the constructor has found."""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        config = self.config
        order = share_out(config.tasks, config.items, random.Random(f"{config.name}/{split}/{config.items}"))
        rows = {name: iter(_items(name, split, order.count(name), config.side)) for name in dict.fromkeys(order)}
        return [next(rows[name]) for name in order]


def _items(task: str, split: Split, count: int, side: int) -> list[BenchmarkItem]:
    store = item_store(task, split, count, side)
    return [
        BenchmarkItem(
            row["id"], (ImageRef(store.images[i], row["id"]),), row["question"], tuple(row["references"]),
            row["answer"], description=row["description"],
        )
        for i, row in enumerate(store.rows)
    ]


class OfflineVqa(_Offline):
    """Open-ended questions on scenes."""

    metric_name = "vqa_accuracy"


class OfflineKnowledge(_Offline):
    """Questions about the country of a flag."""

    metric_name = "vqa_accuracy"


class OfflineReading(_Offline):
    """Signs, handwritten numbers, charts and tables."""

    metric_name = "vqa_accuracy"


class OfflineCaptions(_Offline):
    """Captions of scenes against five references."""

    metric_name, template = "cider", "caption"
    max_new_tokens = 24


class OfflinePages(_Offline):
    """Lines of fact sheets."""

    metric_name = "anls"
    max_new_tokens = 16
