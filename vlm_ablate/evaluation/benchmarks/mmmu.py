"""MMMU (arXiv:2311.16502), schema of MMMU/MMMU: up to seven images placed by `<image n>`, options as text.

Multiple-choice answers are read strictly; MMMU's own script guesses at random where it cannot read one. Open answers
match as `metrics/multiple_choice.py` says.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from vlm_ablate.data.values import cells_of, text_of
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, choice_item, required
from vlm_ablate.evaluation.prompts import MARKER


class Mmmu(HubBenchmark):
    """College-level questions of 30 subjects."""

    metric_name, template = "multiple_choice", "choices"
    columns = ("id", "question", "options", "answer", "question_type")
    image_columns = tuple(f"image_{i}" for i in range(1, 8))

    def text(self, row: Row) -> BenchmarkItem:
        name, question = required(row, "id"), required(row, "question")
        options, answers = _listed(row["options"], "options"), _listed(row["answer"], "answer")
        answers = [answer for answer in answers if answer not in ("", "?")]  # "?": the test split keeps it secret
        if row["question_type"] == "multiple-choice":
            return choice_item(name, question, options, answers[0] if answers else "")
        return BenchmarkItem(name, (), question, tuple(answers), answers[0] if answers else "")

    def _with_images(self, row: Row) -> BenchmarkItem:
        """`<image 3>` is the picture of the column `image_3`, also where `image_2` has none."""
        item = super()._with_images(row)
        there = [number for number, column in enumerate(self.image_columns, 1) if row.get(column) is not None]
        if len(there) < len(item.images) or there == list(range(1, len(there) + 1)):  # lists number their own pictures
            return item
        places = {number: place for place, number in enumerate(there, 1)}
        for number in map(int, MARKER.findall("\n".join((item.question, *item.choices)))):
            if number not in places:
                raise DataError(f"item {item.id!r} speaks of <image {number}> and has no image_{number}")
        texts = (MARKER.sub(lambda m: f"<image {places[int(m[1])]}>", t) for t in (item.question, *item.choices))
        question, *choices = texts
        return replace(item, question=question, choices=tuple(choices))


def _listed(value: Any, field: str) -> list[str]:
    """The texts of a list, of the text of one, or of a single text; "" where an entry is absent."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise DataError(f"its {field} {value!r} are not a list: {error}") from error
    return [text_of(entry, field) for entry in cells_of(value)]
