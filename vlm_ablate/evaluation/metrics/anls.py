"""ANLS: average normalised Levenshtein similarity.

Source: Biten et al., Scene Text Visual Question Answering, ICCV 2019 (arXiv:1905.13648), eq. 1, and the DocVQA task
page (https://rrc.cvc.uab.es/?ch=17&com=tasks): s = 1 - NL where NL < 0.5, else 0; the best over the references; not
case sensitive. NL is the edit distance over the longer length, both texts being stripped and lower-cased first.

Two readings of it are in use, and a record says which by the scorer's name:

| | `anls` | `anls_docvqa` |
|---|---|---|
| source | equation 1 | the official evaluation script of DocVQA (download page of the task) |
| NL of exactly 0.5 | scores 0 | scores 0.5 |
| inner blanks | count | runs of them are one blank, for the distance |
| longer length | of the compared texts | of the texts as given, in capitals, all blanks with them |

Published DocVQA numbers come from the script. In both, two empty texts are equal and score 1, and thresholds are
compared in whole numbers, so that rounding cannot decide them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references


def similarity(prediction: str, reference: str) -> float:
    """1 - NL of two texts, 0 where NL >= 0.5."""
    a, b = prediction.strip().lower(), reference.strip().lower()
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    distance = Levenshtein.distance(a, b)
    return 1.0 - distance / longest if 2 * distance < longest else 0.0


def official_similarity(prediction: str, reference: str) -> float:
    """The same as DocVQA's evaluation script computes it."""
    a, b = (" ".join(text.strip().lower().split()) for text in (prediction, reference))
    longest = max(len(prediction.upper()), len(reference.upper()))
    if not longest:
        return 1.0
    distance = Levenshtein.distance(a, b)
    return 1.0 - distance / longest if 2 * distance <= longest else 0.0


class Anls(Metric):
    """ANLS with threshold 0.5, the best over the references."""

    name = "anls"
    version = "1"
    summary = "1 - normalised edit distance if below 0.5, else 0; best reference (DocVQA)"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """Similarity in 0 or 0.5..1. Raises DataError without references."""
        check_references(references, self.name)
        return ItemScore(max(similarity(prediction, r) for r in references))


class DocVqaAnls(Metric):
    """ANLS as the official DocVQA evaluation script reads it, the best over the references."""

    name = "anls_docvqa"
    version = "1"
    summary = "ANLS as DocVQA's evaluation script computes it (0.5 counts, lengths of raw texts)"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """Similarity in 0 or 0.5..1. Raises DataError without references."""
        check_references(references, self.name)
        return ItemScore(max(official_similarity(prediction, r) for r in references))
