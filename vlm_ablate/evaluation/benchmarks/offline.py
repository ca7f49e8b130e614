"""Benchmarks on composed pictures: four that mirror the paper's four, and page reading."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_ablate.config.components.benchmarks import OfflineConfig
from vlm_ablate.data.offline.store import item_store
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split


class _Offline(Benchmark):
    """Items of one task; no picture, flag, digit or table of the report split occurs in another split."""

    config: OfflineConfig
    task: str
    max_new_tokens = 12

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        store = item_store(self.task, split, self.config.items, self.config.side)
        return [
            BenchmarkItem(
                row["id"], (ImageRef(store.images[i], row["id"]),), row["question"], tuple(row["references"]),
                row["answer"], description=row["description"],
            )
            for i, row in enumerate(store.rows)
        ]


class OfflineVqa(_Offline):
    """Open-ended questions on scenes."""

    task, metric_name = "vqa", "vqa_accuracy"


class OfflineKnowledge(_Offline):
    """Questions about the country of a flag."""

    task, metric_name = "knowledge", "vqa_accuracy"


class OfflineReading(_Offline):
    """Signs, handwritten numbers, charts and tables."""

    task, metric_name = "reading", "vqa_accuracy"


class OfflineCaptions(_Offline):
    """Captions of scenes against five references."""

    task, metric_name, template = "captions", "cider", "caption"
    max_new_tokens = 24


class OfflinePages(_Offline):
    """Lines of fact sheets."""

    task, metric_name = "pages", "anls"
    max_new_tokens = 16
