"""Square windows on a printed page: which of its words they show whole, which they cut, and in which lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from vlm_ablate.offline.facts import ascii_fold
from vlm_ablate.pdf.document import Line, PageText, Word
from vlm_ablate.pdf.layout import ContentsLine, Heading, Layout

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

MARGIN = 2
"""Pixels that must be free between a word and the window's edge for the word to count as shown."""
_WIDE = 1.5
"""Share of the font size: words with a wider gap between them do not follow each other."""

_AS_TYPED = str.maketrans({
    "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-", "…": "...",
    "•": "*", "◦": "*", "▪": "*", "∗": "*", "›": ">", "‹": "<",
})


def plain(text: str) -> str:
    """Text in ASCII as it would be typed: straight quotes, hyphens, no accents."""
    return ascii_fold(text.translate(_AS_TYPED))


def core(text: str) -> str:
    """A word in ASCII without quotes, brackets and punctuation around it."""
    return text.strip("\"'`()[]{},;:!?.*")


@dataclass(frozen=True)
class SeenWord:
    """A word that a window shows whole."""

    word: Word
    text: str
    """In ASCII."""
    box: Box
    """In pixels of the window."""

    @cached_property
    def readable(self) -> bool:
        """Whether the text is all that is printed: neither half of a word nor robbed of letters that ASCII lacks."""
        return self.word.whole and all(plain(c) for c in self.word.text)

    @cached_property
    def core(self) -> str:
        """The text without what surrounds it (see `core`)."""
        return core(self.text)


@dataclass(frozen=True)
class SeenLine:
    """What a window shows of a line."""

    line: Line
    words: tuple[SeenWord, ...]
    first: int
    """Place among the line's words of the first one that is shown."""
    row: tuple[int, int]
    """Top and bottom of the line in pixels of the window."""

    @property
    def starts(self) -> bool:
        """Whether its first word is shown."""
        return bool(self.words) and self.first == 0

    @property
    def ends(self) -> bool:
        """Whether its last word is shown."""
        return bool(self.words) and self.first + len(self.words) == len(self.line.words)

    @property
    def whole(self) -> bool:
        """Whether all of it is shown."""
        return self.starts and self.ends

    @cached_property
    def text(self) -> str:
        """Its shown words."""
        return " ".join(w.text for w in self.words)

    @cached_property
    def phrases(self) -> tuple[tuple[SeenWord, ...], ...]:
        """Runs of readable words without wide gaps."""
        runs: list[list[SeenWord]] = [[]]
        for word in self.words:
            if not word.readable:
                runs.append([])
                continue
            if runs[-1] and word.word.left - runs[-1][-1].word.right > _WIDE * self.line.size:
                runs.append([])
            runs[-1].append(word)
        return tuple(tuple(run) for run in runs if run)


@dataclass(frozen=True)
class Printed:
    """The words of a page with their boxes in pixels."""

    boxes: np.ndarray
    """(words, 4) int."""
    line_of: np.ndarray
    """(words,) index of each word's line."""
    first_of: np.ndarray
    """(lines,) index of each line's first word."""
    rows: np.ndarray
    """(lines, 2) top and bottom of each line."""
    texts: tuple[str, ...]


@lru_cache(maxsize=256)
def printed_words(layout: Layout, scale: float) -> Printed:
    """The words of a page at a scale, in pixels; of the pages looked at last they are kept."""
    height, words = layout.page.height, [w for line in layout.page.lines for w in line.words]
    boxes = np.array([
        (math.floor(w.left * scale), math.floor((height - w.top) * scale),
         math.ceil(w.right * scale), math.ceil((height - w.bottom) * scale)) for w in words
    ], dtype=int).reshape(-1, 4)
    counts = [len(line.words) for line in layout.page.lines]
    first = np.cumsum([0, *counts])[:-1]
    rows = [(boxes[a : a + n, 1].min(), boxes[a : a + n, 3].max()) for a, n in zip(first, counts, strict=True)]
    return Printed(boxes, np.repeat(np.arange(len(counts)), counts), first, np.array(rows, int).reshape(-1, 2),
                    tuple(plain(w.text) for w in words))


class Window:
    """A square of a page's picture.

    Args:
        layout: the page; its lines have words.
        scale: pixels in a point.
        left, top: the window's place in the page's picture, in pixels; negative where the page is smaller.
        size: its side in pixels.
    """

    def __init__(self, layout: Layout, scale: float, left: int, top: int, size: int) -> None:
        self.layout, self.left, self.top, self.size = layout, left, top, size
        printed = self._printed = printed_words(layout, scale)
        boxes = self._boxes = printed.boxes - np.array([left, top, left, top])
        self._touched = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < size) & (boxes[:, 1] < size)
        self._inside = (boxes >= MARGIN).all(1) & (boxes <= size - MARGIN).all(1)

    @cached_property
    def lines(self) -> list[SeenLine]:
        """Lines of which anything is to be seen, from the top; those that are cut off may have no whole word."""
        found = []
        for number in np.unique(self._printed.line_of[self._touched]):
            first = self._printed.first_of[number]
            line = self.layout.page.lines[number]
            at = [i for i in range(first, first + len(line.words)) if self._inside[i]]
            # A line whose words wrap around the window's edge has no single run of shown words.
            at = at if at and at[-1] - at[0] + 1 == len(at) else []
            words = tuple(
                SeenWord(line.words[i - first], self._printed.texts[i], (int(left), int(top), int(right), int(bottom)))
                for i, (left, top, right, bottom) in zip(at, self._boxes[at], strict=True)
            )
            top, bottom = self._printed.rows[number] - self.top
            found.append(SeenLine(line, words, int(at[0] - first) if at else 0, (int(top), int(bottom))))
        return sorted(found, key=lambda seen: (seen.row[0] + seen.row[1], seen.line.left))

    @cached_property
    def rows(self) -> list[list[SeenLine]]:
        """Lines side by side are one row."""
        rows: list[list[SeenLine]] = []
        for seen in self.lines:
            # The mark of a footnote is short and raised, but within the height of its row.
            if rows and any(_beside(seen.row, other.row) for other in rows[-1]):
                rows[-1].append(seen)
            else:
                rows.append([seen])
        return rows

    @property
    def cut_above(self) -> bool:
        """Whether the first row is cut by the window's upper edge."""
        return bool(self.rows) and min(seen.row[0] for seen in self.rows[0]) < 0

    @property
    def cut_below(self) -> bool:
        """Whether the last row is cut by the window's lower edge."""
        return bool(self.rows) and max(seen.row[1] for seen in self.rows[-1]) > self.size

    @cached_property
    def words(self) -> list[SeenWord]:
        """All words that are shown whole."""
        return [word for seen in self.lines for word in seen.words]

    @cached_property
    def touched(self) -> list[tuple[Word, str]]:
        """All words of which anything is to be seen, with their text in ASCII."""
        flat = [word for line in self.layout.page.lines for word in line.words]
        return [(flat[i], self._printed.texts[i]) for i in np.flatnonzero(self._touched)]

    @cached_property
    def text(self) -> str:
        """The shown words, a line a line."""
        return "\n".join(seen.text for seen in self.lines if seen.words)

    @cached_property
    def whole(self) -> Clipped:
        """The lines that are shown whole, taken apart as on the page."""
        return Clipped(self.layout, [seen.line for seen in self.lines if seen.whole])

    @cached_property
    def shown(self) -> Layout:
        """The shown words of every line, cut or not, as lines."""
        layout = Clipped(self.layout, [])
        layout.lines = [replace(seen.line, text=seen.text) for seen in self.lines if seen.words]
        return layout

    @cached_property
    def cuts_heading(self) -> bool:
        """Whether a heading is shown in part."""
        seen = {id(one.line) for one in self.lines}
        shown = {id(line) for line in self.whole.page.lines}
        lines = self.layout.lines
        return any(
            id(lines[i]) in seen and not all(id(lines[k]) in shown for k in range(h.start, h.stop))
            for h in self.layout.headings for i in range(h.start, h.stop)
        )


def _beside(row: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a good part of the lower of two rows is at the other's height."""
    common = min(row[1], other[1]) - max(row[0], other[0])
    return common > 0.35 * min(row[1] - row[0], other[1] - other[0])


class Clipped(Layout):
    """The part of a page's layout that consists of some of its lines."""

    def __init__(self, page: Layout, shown: Sequence[Line]) -> None:
        kept = {id(line) for line in shown}
        lines = tuple(line for line in page.page.lines if id(line) in kept)
        self._of, self._shown = page, kept
        self.page = PageText(page.page.number, page.page.width, page.page.height, lines)
        self.face, self._expected = page.face, page._expected
        self.lines = [line for line in page.lines if id(line) in kept]

    @cached_property
    def headings(self) -> list[Heading]:
        """The page's headings that are shown whole."""
        place = {id(line): i for i, line in enumerate(self.lines)}
        found = []
        for heading in self._of.headings:
            lines = self._of.lines[heading.start : heading.stop]
            if all(id(line) in self._shown for line in lines):
                start = place[id(lines[0])]
                found.append(Heading(heading.text, heading.number, heading.size, start, start + len(lines)))
        return found

    @cached_property
    def contents(self) -> list[ContentsLine]:
        """The page's entries of contents whose line is shown whole."""
        return [
            entry for entry in self._of.contents
            if any(line.text.startswith(entry.title) and line.text.endswith(entry.page) for line in self.lines)
        ]

    @cached_property
    def is_contents(self) -> bool:
        """Whether the page, shown or not, is mostly a table of contents or an index."""
        return self._of.is_contents
