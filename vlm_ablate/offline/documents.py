"""Documents: windows on real pages of manuals, with questions that what they show answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from vlm_ablate.docmatix.pair import Pair
from vlm_ablate.errors import DataError
from vlm_ablate.offline import document_headings as headings
from vlm_ablate.offline import document_questions as questions
from vlm_ablate.offline.debian.documents import DPI, Document, page_layout, page_picture, pages
from vlm_ablate.offline.document_questions import Ask
from vlm_ablate.offline.item import Item, Region, item_rng
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.placing import Anchor, place_window
from vlm_ablate.offline.windows import Window, plain

SCALE = DPI / 72
"""Pixels in a point."""


@dataclass(frozen=True)
class Kind:
    """A kind of question: how often it is tried, in parts of the sum, and what its window must hold."""

    ask: Ask
    weight: int
    anchor: Anchor


KINDS = (
    Kind(questions.word_after, 10, "anywhere"), Kind(questions.word_before, 7, "anywhere"),
    Kind(questions.gap, 7, "anywhere"), Kind(questions.beginning, 6, "anywhere"),
    Kind(questions.line_start, 8, "start"), Kind(questions.line_end, 9, "end"),
    Kind(questions.short_line, 16, "start"), Kind(questions.bullet, 14, "start"),
    Kind(questions.bold, 22, "bold"), Kind(questions.typewriter, 14, "mono"),
    Kind(questions.number, 6, "anywhere"),
    Kind(questions.page_number, 4, "number"), Kind(questions.running_head, 3, "number"),
    Kind(headings.heading, 18, "heading"), Kind(headings.section, 8, "heading"),
    Kind(headings.heading_start, 10, "heading"), Kind(headings.below_heading, 8, "heading"),
    Kind(headings.contents, 50, "start"), Kind(headings.listed_page, 30, "start"),
    Kind(headings.caption, 20, "start"), Kind(headings.field, 20, "start"), Kind(headings.dated, 14, "anywhere"),
)
_WEIGHTS = tuple(kind.weight for kind in KINDS)
_MOST_WORDS, _MOST_LETTERS = 12, 80
_DRAWS, _PAGES = 30, 10


def documents(split: Split, index: int, size: int) -> Item:
    """A window of `size` pixels on a page, and a question about what it shows.

    Raises:
        AssetMissing: the manuals were not fetched.
        DataError: one is damaged, or a split has no page to ask about.
    """
    window, document, pair = asked(split, index, size)
    answer = plain(pair.answer)
    picture = page_picture(document, window.layout.page.number, window.left, window.top, size)
    return Item(
        f"documents/{split}/{index}", picture, plain(pair.question), answer,
        variants(answer, pair.kind), describe(window),
        tuple(Region(word.text, word.box) for word in window.words if word.text),
    )


def asked(split: Split, index: int, size: int) -> tuple[Window, Document, Pair]:
    """The window of an item, its document, and the question with its kind."""
    rng = item_rng("documents", split, index)
    pool = _order(pages(split))
    if not pool:
        raise DataError(f"no document of the {split} split has a page to ask about")
    for turn in range(_PAGES):
        # Every page of the split comes round before any comes again.
        document, number = pool[(index + turn * 7919) % len(pool)]
        layout = page_layout(document, number)
        for kind in rng.choices(KINDS, _WEIGHTS, k=_DRAWS):
            window = place_window(layout, SCALE, size, kind.anchor, rng)
            pair = kind.ask(window, rng) if window else None
            if window and pair and _fits(pair, window):
                return window, document, pair
    raise DataError(f"no question was found for item {index} of the {split} split at {size} pixels",
                    hint="windows of at least 64 pixels show words to ask for")


@lru_cache(maxsize=8)
def _order(pool: tuple[tuple[Document, int], ...]) -> tuple[tuple[Document, int], ...]:
    return tuple(random.Random("documents").sample(pool, len(pool)))


def _fits(pair: Pair, window: Window) -> bool:
    """Whether the answer is short, and stands in what the window shows."""
    short = len(pair.answer.split()) <= _MOST_WORDS and len(pair.answer) <= _MOST_LETTERS
    return short and plain(pair.answer) in " ".join(word.text for word in window.words if word.readable)


def variants(answer: str, kind: str) -> tuple[str, ...]:
    """The answer and how else people would write it."""
    found = [answer]
    bare = answer.strip("\"'()[].,;:!? ")
    if "heading" in kind:
        head, _, title = answer.partition(" ")
        found += [title] if title and head[:1].isdigit() else []
    return tuple(dict.fromkeys([*found, *([bare] if bare else [])]))


def describe(window: Window) -> str:
    """The lines that the window shows, and what is set apart in them."""
    said = "page with the lines: " + " / ".join(window.text.split("\n"))
    for face, name in (("bold", "in bold"), ("mono", "in typewriter letters")):
        run = questions.only_run(window, face)
        said += f"; {name}: {run}" if run else ""
    number = questions.page_number(window, random.Random(0))
    return said + (f"; page number {number.answer}" if number else "")
