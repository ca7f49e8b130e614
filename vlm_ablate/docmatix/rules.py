"""Questions from rules over the text of the pages: the offline default. Answers stand on the page."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from vlm_ablate.docmatix.asking import KINDS, document_title
from vlm_ablate.docmatix.pair import PageRow, Pair
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.pdf.layout import Face, Layout, face_of

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
RARE = {"page number": 0.3, "page header": 0.2, "count": 0.6, "date": 0.7, "last heading": 0.6, "first heading": 0.6}
"""Kinds that nearly every page offers, and the chance with which they are considered, so that they do not crowd."""


class RuleQuestioner:
    """Draws a few questions a page, of as many kinds as the page offers."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings

    def check(self) -> None:
        """Rules need nothing."""

    def ask(self, rows: Sequence[PageRow]) -> Iterator[tuple[int, list[Pair]]]:
        """(row's place, its pairs) for all rows of one PDF."""
        face = face_of([page for row in rows for page in row.pages])
        for number, row in enumerate(rows):
            # Seeded by the row, so that neither the order of PDFs nor the number of processes matters.
            rng = random.Random(f"{self.settings.seed} {row.key} {row.span}")
            yield number, self._row(row, face, rng)

    def _row(self, row: PageRow, face: Face, rng: random.Random) -> list[Pair]:
        pairs: list[Pair] = []
        for place, page in enumerate(row.pages):
            layout = Layout(page, face)
            where = page_phrase(place, len(row.pages))
            candidates = [pair for kind in KINDS for pair in kind(layout, where, rng)]
            chosen = document_title(layout, rng) if page.number == 1 else []
            chosen += choose(candidates, self.settings.pairs_per_page - len(chosen), rng)
            pairs += [self._placed(pair, where, len(row.pages)) for pair in chosen]
        return pairs

    @staticmethod
    def _placed(pair: Pair, where: str, pages: int) -> Pair:
        """Say on which page, where the question does not and another page might answer it differently."""
        named = where in pair.question.lower() or pair.kind in ("title", "first sentence", "contents page")
        if pages == 1 or named or pair.kind in ("definition", "abbreviation", "number in a sentence"):
            return pair
        question = f"{where[0].upper()}{where[1:]}, {pair.question[0].lower()}{pair.question[1:]}"
        return Pair(question, pair.answer, pair.kind, pair.evidence)


def page_phrase(place: int, pages: int) -> str:
    """How a question names the page at `place` (from 0) of so many."""
    if pages == 1:
        return "on this page"
    return f"on the {ORDINALS[place]} page" if place < len(ORDINALS) else f"on page {place + 1} of those shown"


def choose(candidates: Sequence[Pair], count: int, rng: random.Random) -> list[Pair]:
    """`count` pairs of as many kinds as possible, in the candidates' order."""
    considered = [p for p in candidates if rng.random() < RARE.get(p.kind, 1.0)]
    order = rng.sample(range(len(considered)), len(considered))
    taken: Counter[str] = Counter()
    rank: dict[int, tuple[int, int]] = {}
    for position, index in enumerate(order):
        kind = considered[index].kind
        rank[index] = (taken[kind], position)
        taken[kind] += 1
    best = sorted(rank, key=rank.__getitem__)[: max(count, 0)]
    return [considered[index] for index in sorted(best)]
