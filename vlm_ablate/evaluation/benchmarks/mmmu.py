"""MMMU (arXiv:2311.16502), schema of MMMU/MMMU: up to seven images placed by `<image n>`, options as text.

Multiple-choice answers are read strictly; MMMU's own script guesses at random where it cannot read one. Open answers
match as `metrics/multiple_choice.py` says.
"""

from __future__ import annotations

import ast
from typing import Any

from vlm_ablate.data.values import cells_of, text_of
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, choice_item, required


class Mmmu(HubBenchmark):
    """College-level questions of 30 subjects."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("id", "question", "options", "answer", "question_type")
    image_columns = tuple(f"image_{i}" for i in range(1, 8))

    def text(self, row: Row) -> BenchmarkItem:
        name, question = required(row, "id"), required(row, "question")
        options, answers = _listed(row["options"], "options"), [a for a in _listed(row["answer"], "answer") if a]
        if row["question_type"] == "multiple-choice":
            return choice_item(name, question, options, answers[0] if answers and answers[0] != "?" else "")
        return BenchmarkItem(name, (), question, tuple(answers), answers[0] if answers else "")


def _listed(value: Any, field: str) -> list[str]:
    """The texts of a list, of the text of one, or of a single text; "" where an entry is absent."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise DataError(f"its {field} {value!r} are not a list: {error}") from error
    return [text_of(entry, field) for entry in cells_of(value)]
