"""What every metric is: a prediction against its references, and a mean over a set of them on the scale 0..100."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_ablate.errors import DataError


@dataclass(frozen=True)
class ItemScore:
    """Score of one answer in 0..1 (CIDEr: 0..10); None when the answer could not be parsed."""

    value: float | None


@dataclass(frozen=True)
class MetricResult:
    """Scores of a set. `mean` is x100 over all items, an unparsed answer counting as 0."""

    mean: float
    per_item: tuple[float | None, ...]
    count: int
    unparsed: int


class Metric(ABC):
    """Base of all metrics. `version` changes whenever any score could change."""

    name: str
    version: str
    summary: str = ""

    @abstractmethod
    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """Score one answer.

        Raises:
            DataError: there are no references.
        """

    def corpus(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
        """Score a set of answers; the mean does not depend on their order.

        Raises:
            DataError: no items, unequal numbers, or an item without references.
        """
        check_sizes(predictions, references)
        return summarise([self.score(p, r).value for p, r in zip(predictions, references, strict=True)])


def summarise(values: Sequence[float | None]) -> MetricResult:
    """Mean x100 with unparsed answers (None) as zeros. `fsum`, so that the order of items does not matter."""
    from math import fsum

    mean = 100.0 * fsum(v for v in values if v is not None) / len(values)
    return MetricResult(mean, tuple(values), len(values), sum(v is None for v in values))


def check_sizes(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what no mean can be taken of.

    Raises:
        DataError: no items, or unequal numbers of predictions and reference lists.
    """
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions but {len(references)} lists of references")
    if not predictions:
        raise DataError("nothing to score: there are no predictions")


def check_references(references: Sequence[str], metric: str) -> None:
    """Refuse an item that nothing can be compared with.

    Raises:
        DataError: there are no references.
    """
    if isinstance(references, str):
        raise DataError(f"{metric}: references must be a list of strings, not one string")
    if not references:
        raise DataError(f"{metric}: an item has no references")
