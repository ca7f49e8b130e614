"""ChartQA (arXiv:2203.10244), schema of HuggingFaceM4/ChartQA (`query`, `label`; rows have no ids)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vlm_ablate.data.values import answers_of
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, Split
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, required

if TYPE_CHECKING:
    from datasets import Dataset


class ChartQa(HubBenchmark):
    """Questions on charts, by people and by machine."""

    metric_name, template = "relaxed_accuracy", "vqa"
    columns = ("query", "label")

    def _table(self, split: Split) -> Dataset:
        table = super()._table(split)
        if "row" in table.column_names:
            return table
        return table.add_column("row", [f"{split}/{number}" for number in range(len(table))])

    def text(self, row: Row) -> BenchmarkItem:
        labels, question = answers_of(row["label"], "label"), required(row, "query")
        if "row" in row:
            name = required(row, "row")
        else:  # a part of a split is being cut, before the rows are numbered: the content alone names one
            name = hashlib.sha256(repr((question, labels)).encode()).hexdigest()[:12]
        return BenchmarkItem(name, (), question, labels, labels[0] if labels else "")
