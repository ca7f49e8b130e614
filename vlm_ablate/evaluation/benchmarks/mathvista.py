"""MathVista (arXiv:2310.02255), schema of AI4Math/MathVista. Answers are read strictly.

Open answers must equal the gold at its own decimals. The official evaluation first asks GPT-4 to extract the answer.
Its prompt tells the unit, the kind of answer and the decimals, which the papers' short prompts do not. So scores are
lower bounds.
"""

from __future__ import annotations

from vlm_ablate.data.values import cells_of, text_of
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, choice_item, required


class MathVista(HubBenchmark):
    """Mathematical questions on figures, charts and photos."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("pid", "question", "choices", "answer", "question_type")
    image_columns = ("decoded_image",)

    def text(self, row: Row) -> BenchmarkItem:
        name, question, answer = required(row, "pid"), required(row, "question"), text_of(row["answer"], "answer")
        if row["question_type"] != "multi_choice" or not answer:
            return BenchmarkItem(name, (), question, (answer,) if answer else (), answer)
        choices = [text_of(choice, "choices") for choice in cells_of(row["choices"])]
        if answer not in choices:
            raise DataError(f"the answer {answer!r} is not among its choices")
        return choice_item(name, question, choices, chr(65 + choices.index(answer)))
