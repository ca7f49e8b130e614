"""MMBench (arXiv:2307.06281), schema of lmms-lab/MMBench: choices in the columns A to D, an optional hint.

Each question is asked once. The official CircularEval asks it in every rotation of its choices and wants all right.
"""

from __future__ import annotations

from vlm_ablate.data.values import text_of
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, choice_item, required


class MmBench(HubBenchmark):
    """Perception and reasoning questions of twenty kinds."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("index", "question", "answer", "A", "B")

    def text(self, row: Row) -> BenchmarkItem:
        answer = _given(row, "answer")
        # What is right is an option, even where a reader of the data set took its text ("None") for a gap.
        choices = [text_of(row.get(c), c) if c == answer else _given(row, c) for c in "ABCD"]
        hint = f"{given}\n" if (given := _given(row, "hint")) else ""
        question = hint + required(row, "question")
        return choice_item(required(row, "index"), question, choices, answer)


def _given(row: Row, column: str) -> str:
    """A text that may be missing; copies of the data set write that as None, "" or "nan"."""
    text = text_of(row.get(column), column)
    return "" if text == "nan" else text
