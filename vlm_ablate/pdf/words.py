"""Pages read word by word, each with its box and face."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlm_ablate.pdf.document import Line, PageText, TextLayer, Word, character, clean, opened_text, page_size, runs

if TYPE_CHECKING:
    import pypdfium2

_DIVIDED = (0x02, 0xFFFE, 0xFFFF)
"""What PDFium puts for the hyphen of a word that was divided at the end of a line."""
_MARK = 0.8
"""Share of the font size; smaller digits after a word are the mark of a footnote."""
_NEAR = 1.5
"""Points between a drawn underscore and the letters beside it."""


def read_words(page: pypdfium2.PdfPage, number: int) -> PageText:
    """The page's printed lines with their words.

    Other than in `read_page`, the halves of a divided word stay on their own lines, not `whole`; and a line's box
    encloses all of its letters.

    Raises:
        pypdfium2.PdfiumError: the page has no area.
    """
    width, height = page_size(page)
    with opened_text(page) as layer:
        reader = _Reader(layer, _underscores(page, layer))
        lines = [line for start, stop in runs(layer.characters) for line in reader.lines(start, stop)]
        return PageText(number, width, height, tuple(lines), layer.hidden)


def _underscores(page: pypdfium2.PdfPage, layer: TextLayer) -> list[tuple[float, float, float]]:
    """Left, bottom and right of short flat lines: TeX draws underscores, so that they are no characters."""
    import pypdfium2.raw as raw

    found = []
    for i in range(raw.FPDFPage_CountObjects(page)):
        drawn = raw.FPDFPage_GetObject(page, i)
        if raw.FPDFPageObj_GetType(drawn) == raw.FPDF_PAGEOBJ_PATH:
            sides = [ctypes.c_float() for _ in range(4)]
            raw.FPDFPageObj_GetBounds(drawn, *sides)
            left, bottom, right, top = layer.placed((sides[0].value, sides[1].value, sides[2].value, sides[3].value))
            if 1 < right - left < 9 and top - bottom < 2:
                found.append((left, bottom, right))
    return found


class _Reader:
    """The characters of one page, by PDFium's index."""

    def __init__(self, layer: TextLayer, underscores: list[tuple[float, float, float]]) -> None:
        self.layer, self.characters, self.underscores = layer, layer.characters, underscores

    def lines(self, start: int, stop: int) -> Iterator[Line]:
        """The printed lines of a run without line ends."""
        begun = False
        for left, right, divided in self._printed(start, stop):
            words = self._joined(self._words(left, right, begun, divided))
            begun = divided
            if words:
                yield self._line(words, left, right)

    def _printed(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        for i in range(start, stop):
            if self.characters[i] in _DIVIDED:
                yield start, i, True
                start = i + 1
        yield start, stop, False

    def _line(self, words: list[Word], start: int, stop: int) -> Line:
        drawn = [i for i in range(start, stop) if self.characters[i] > 32]
        bold, mono = all(w.bold for w in words), 2 * sum(w.mono for w in words) > len(words)
        return Line(
            " ".join(w.text for w in words), min(w.left for w in words), min(w.bottom for w in words),
            max(w.right for w in words), max(w.top for w in words), round(self.layer.size(drawn[len(drawn) // 2]), 1),
            bold, mono, tuple(words),
        )

    def _words(self, start: int, stop: int, begun: bool, divided: bool) -> Iterator[Word]:
        parts = list(self._parts(start, stop))
        for k, (indices, mark) in enumerate(parts):
            text = clean("".join(character(self.characters[i]) for i in indices))
            if not text:
                continue
            boxes = [self.layer.box(i) for i in indices]
            half = (begun and k == 0) or (divided and k == len(parts) - 1)
            bold, mono = self.layer.face(indices[len(indices) // 2])
            yield Word(
                text, min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes),
                max(b[3] for b in boxes), bold, mono, not (half or mark),
            )

    def _joined(self, words: Iterator[Word]) -> list[Word]:
        """Words, those with a drawn underscore between them made one."""
        found: list[Word] = []
        for word in words:
            before = found[-1] if found and self.underscores else None
            if before and any(
                abs(left - before.right) < _NEAR and abs(word.left - right) < _NEAR
                and before.bottom - 2 * _NEAR < bottom < before.top for left, bottom, right in self.underscores
            ):
                found.pop()
                word = Word(f"{before.text}_{word.text}", before.left, min(before.bottom, word.bottom), word.right,
                            max(before.top, word.top), before.bold, before.mono, before.whole and word.whole)
            found.append(word)
        return found

    def _parts(self, start: int, stop: int) -> Iterator[tuple[list[int], bool]]:
        """Indices of each word's characters, and whether they are a footnote's mark."""
        word: list[int] = []
        mark = False
        for i in range(start, stop):
            if self.characters[i] <= 32 or self.characters[i] == 0xA0:
                if word:
                    yield word, mark
                word, mark = [], False
                continue
            digit = character(self.characters[i]).isdigit()
            if word and digit and not mark and self.layer.size(i) < _MARK * self.layer.size(word[-1]):
                yield word, False
                word, mark = [], True
            word.append(i)
        if word:
            yield word, mark
