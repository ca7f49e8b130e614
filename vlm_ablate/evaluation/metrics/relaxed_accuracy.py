"""Relaxed accuracy of ChartQA.

Source: Methani et al., PlotQA (arXiv:1909.00997), and Masry et al., ChartQA (arXiv:2203.10244), section 5.1: a numeric
answer is right within 5 % of the gold answer; any other must match exactly. Percent signs are read as Pix2Struct's
public scorer reads them (`5%` is 0.05).

Edge cases: the 5 % are inclusive, of the absolute gold value (a negative gold number does not accept everything), and
computed exactly (0.63 is within 5 % of 0.6); a gold 0 accepts only numbers equal to 0; thousands separators are read on
both sides; a number never matches a text; texts match as in `exact_match`. The best over the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references
from vlm_ablate.evaluation.metrics.exact_match import normalise
from vlm_ablate.evaluation.metrics.numbers import parse_number

_TOLERANCE = Fraction(5, 100)


def correct(prediction: str, reference: str) -> bool:
    """Whether one answer is right for one reference."""
    gold, given = parse_number(reference), parse_number(prediction)
    if gold is None or given is None:
        return normalise(prediction) == normalise(reference)
    return abs(given - gold) <= _TOLERANCE * abs(gold)


class RelaxedAccuracy(Metric):
    """Within 5 % of a numeric reference, equal to a textual one."""

    name = "relaxed_accuracy"
    version = "1"
    summary = "numbers within 5 % of the gold value, texts equal (ChartQA)"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """0 or 1. Raises DataError without references."""
        check_references(references, self.name)
        return ItemScore(float(any(correct(prediction, r) for r in references)))
