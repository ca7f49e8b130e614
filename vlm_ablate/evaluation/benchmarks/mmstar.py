"""MMStar (arXiv:2403.20330), schema of Lin-Chen/MMStar: the question's text already lists its choices."""

from __future__ import annotations

from vlm_ablate.data.values import stripped
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, required


class MmStar(HubBenchmark):
    """Questions chosen so that they cannot be answered without the image."""

    metric_name, template = "multiple_choice", "letter"
    columns = ("index", "question", "answer")

    def text(self, row: Row) -> BenchmarkItem:
        name, question, answer = required(row, "index"), required(row, "question"), stripped(row["answer"], "answer")
        return BenchmarkItem(name, (), question, (answer,) if answer else (), answer)
