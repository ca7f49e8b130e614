"""MathVista (arXiv:2310.02255), schema of AI4Math/MathVista. Answers are read strictly.

Open answers must equal the gold at its own decimals; the official evaluation first asks GPT-4 to extract the answer, so
scores here are lower bounds of it.
"""

from __future__ import annotations

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, lettered


class MathVista(HubBenchmark):
    """Mathematical questions on figures, charts and photos."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("pid", "question", "choices", "answer", "question_type")
    image_columns = ("decoded_image",)

    def text(self, row: Row) -> BenchmarkItem:
        name, answer, choices = str(row["pid"]), row["answer"], [str(c) for c in row["choices"] or ()]
        if row["question_type"] != "multi_choice" or not answer:
            return BenchmarkItem(name, (), row["question"], (str(answer),) if answer else (), str(answer or ""))
        if answer not in choices:
            raise DataError(f"benchmark 'mathvista': the answer {answer!r} of item {name!r} is not among its choices")
        right = chr(65 + choices.index(answer))
        return BenchmarkItem(name, (), row["question"], lettered(choices, right), right, choices=tuple(choices))
