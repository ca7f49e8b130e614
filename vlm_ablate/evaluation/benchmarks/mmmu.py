"""MMMU (arXiv:2311.16502), schema of MMMU/MMMU: up to seven images placed by `<image n>`, options as text.

Multiple-choice answers are read strictly; MMMU's own script guesses at random where it cannot read one. Open answers
match as `metrics/multiple_choice.py` says.
"""

from __future__ import annotations

import ast
from typing import Any

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, lettered


class Mmmu(HubBenchmark):
    """College-level questions of 30 subjects."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("id", "question", "options", "answer", "question_type")
    image_columns = tuple(f"image_{i}" for i in range(1, 8))

    def text(self, row: Row) -> BenchmarkItem:
        options, answers = self._list(row["options"], row), self._list(row["answer"], row)
        if row["question_type"] == "multiple-choice":
            references = lettered(options, answers[0]) if answers and answers[0] != "?" else ()
            return BenchmarkItem(
                row["id"], (), row["question"], references, answers[0] if answers else "", choices=tuple(options)
            )
        return BenchmarkItem(row["id"], (), row["question"], tuple(answers), answers[0] if answers else "")

    def _list(self, value: Any, row: Row) -> list[str]:
        """A list, or the text of one, or a single text."""
        if isinstance(value, str) and value.startswith("["):
            try:
                value = ast.literal_eval(value)
            except (SyntaxError, ValueError) as error:
                raise DataError(f"benchmark 'mmmu': item {row['id']!r}: {value!r} is not a list: {error}") from error
        if value is None:
            return []
        return [str(v) for v in value] if isinstance(value, list) else [str(value)]
