"""MMBench (arXiv:2307.06281), schema of lmms-lab/MMBench: choices in the columns A to D, an optional hint.

Each question is asked once. The official CircularEval asks it in every rotation of its choices and wants all right.
"""

from __future__ import annotations

from typing import Any

from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, lettered


class MmBench(HubBenchmark):
    """Perception and reasoning questions of twenty kinds."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("index", "question", "answer", "A", "B")

    def text(self, row: Row) -> BenchmarkItem:
        choices = [row[letter] for letter in "ABCD" if _given(row.get(letter))]
        hint = f"{row['hint']}\n" if _given(row.get("hint")) else ""
        answer = row["answer"] if _given(row["answer"]) else ""
        references = lettered(choices, answer) if answer else ()
        return BenchmarkItem(str(row["index"]), (), hint + row["question"], references, answer, choices=tuple(choices))


def _given(value: Any) -> bool:
    """Copies of the data set write a missing text as None, "" or "nan"."""
    return isinstance(value, str) and value not in ("", "nan")
