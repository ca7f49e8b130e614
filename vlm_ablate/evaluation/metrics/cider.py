"""CIDEr-D: agreement of a caption with the references' consensus, n-grams weighted by how rare they are.

Source: Vedantam et al., CIDEr (arXiv:1411.5726), section 3 and the -D variant of its appendix, as the COCO caption
evaluation computes it (https://github.com/tylin/coco-caption; `pycocoevalcap` on PyPI): n-grams of 1 to 4 tokens,
term frequency times log(items / items whose references have the n-gram), clipped cosine similarity, a Gaussian on the
difference of lengths with sigma 6 (lengths count bigrams, as there), mean over n and over references, times 10.
Document frequencies come from the references of the evaluated set, so the score belongs to the set: reported is
100 x the mean, which can pass 100, and a set of one item scores 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.metrics import ptb
from vlm_ablate.evaluation.metrics.base import (
    ItemScore,
    Metric,
    MetricResult,
    check_references,
    check_sizes,
    summarise,
)

_N = 4
_SIGMA = 6.0
Ngram = tuple[str, ...]


def ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    """Counts of all n-grams of 1 to 4 tokens."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, _N + 1) for i in range(len(tokens) - n + 1))


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights by n-gram, their norm for each n, and the number of bigrams."""

    weights: dict[Ngram, float]
    norms: tuple[float, ...]
    length: int


class _Weighting:
    """Document frequencies of one evaluated set."""

    def __init__(self, references: Sequence[Sequence[Counter[Ngram]]]) -> None:
        self._log_items = math.log(len(references))
        self._frequency = Counter(ngram for item in references for ngram in set().union(*item))

    def vector(self, counts: Counter[Ngram]) -> _Vector:
        """Weights of a caption; an n-gram that no reference has counts as having been in one."""
        weights = {g: c * (self._log_items - math.log(max(1, self._frequency[g]))) for g, c in counts.items()}
        squares = [0.0] * _N
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        bigrams = sum(c for g, c in counts.items() if len(g) == 2)
        return _Vector(weights, tuple(map(math.sqrt, squares)), bigrams)


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Mean over n of the clipped cosine, times the length penalty; 0..1."""
    dots = [0.0] * _N
    for ngram, weight in candidate.weights.items():
        other = reference.weights.get(ngram)
        if other is not None:
            dots[len(ngram) - 1] += min(weight, other) * other
    norms = (a * b for a, b in zip(candidate.norms, reference.norms, strict=True))
    cosine = sum(dot / norm for dot, norm in zip(dots, norms, strict=True) if norm) / _N
    return cosine * math.exp(-((candidate.length - reference.length) ** 2) / (2 * _SIGMA**2))


def cider_of_tokens(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr-D (0..10) of each tokenised candidate against its tokenised references."""
    counted = [[ngrams(r) for r in item] for item in references]
    weighting = _Weighting(counted)
    scores = []
    for tokens, item in zip(candidates, counted, strict=True):
        candidate = weighting.vector(ngrams(tokens))
        scores.append(10.0 * math.fsum(_similarity(candidate, weighting.vector(r)) for r in item) / len(item))
    return scores


class Cider(Metric):
    """CIDEr-D over a set of captions, x100."""

    name = "cider"
    summary = "CIDEr-D of captions, document frequencies from the evaluated set (COCO caption evaluation)"

    def __init__(self, tokenizer: Literal["auto", "java", "python"] = "auto") -> None:
        self._java = ptb.java_available() if tokenizer == "auto" else tokenizer == "java"

    @property
    def version(self) -> str:  # type: ignore[override]  # never set: it follows from the tokenizer
        """Version of the computation and the tokenizer that made the tokens."""
        return "1+ptb-java" if self._java else "1+ptb-python"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """Not defined for one item: its document frequencies are those of the set.

        Raises:
            DataError: always.
        """
        raise DataError("cider has no score for a single item; score the whole set")

    def corpus(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
        """Score a set of captions; per_item is 0..10. Raises DataError as `Metric.corpus` does."""
        check_sizes(predictions, references)
        for item in references:
            check_references(item, self.name)
        flat = [*predictions, *(r for item in references for r in item)]
        tokens = iter(ptb.tokenize_with_java(flat) if self._java else map(ptb.tokenize, flat))
        candidates = [next(tokens) for _ in predictions]
        return summarise(cider_of_tokens(candidates, [[next(tokens) for _ in item] for item in references]))
