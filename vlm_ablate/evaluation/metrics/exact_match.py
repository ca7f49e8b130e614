"""Exact match of normalised texts.

Definition: two answers are equal when their texts are equal after lower-casing, making runs of blanks one blank,
stripping both ends and dropping one closing period - the same on both sides. No article, number or unit is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references


def normalise(text: str) -> str:
    """Lower case, single blanks, no blanks at the ends, no closing period."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


class ExactMatch(Metric):
    """1 if the answer equals any reference, else 0."""

    name = "exact_match"
    version = "1"
    summary = "equal to a reference but for case, blanks and one closing period"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """0 or 1. Raises DataError without references."""
        check_references(references, self.name)
        given = normalise(prediction)
        return ItemScore(float(any(given == normalise(r) for r in references)))
