"""ChartQA (arXiv:2203.10244), schema of HuggingFaceM4/ChartQA (`query`, `label`; rows have no ids)."""

from __future__ import annotations

import hashlib

from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, Split
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, answers_of


class ChartQa(HubBenchmark):
    """Questions on charts, by people and by machine."""

    metric_name, template = "relaxed_accuracy", "vqa"
    columns = ("query", "label")

    def _table(self, split: Split):
        table = super()._table(split)
        return table.add_column("row", list(range(len(table)))) if "row" not in table.column_names else table

    def text(self, row: Row) -> BenchmarkItem:
        labels = answers_of(row["label"] if isinstance(row["label"], list) else [row["label"]])
        # before the rows are numbered (a part of a split is being cut) the content alone names one
        name = row.get("row", hashlib.sha256(repr((row["query"], labels)).encode()).hexdigest()[:12])
        return BenchmarkItem(str(name), (), row["query"], labels, labels[0] if labels else "")
