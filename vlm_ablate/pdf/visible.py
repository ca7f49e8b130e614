"""Which characters of a page its picture shows.

A PDF's text layer also holds what nobody sees: text outside the crop box, in the colour of the paper, under a bar that
was drawn to hide it, in the invisible mode (as under a scanned page), clipped away. None of it is told by an attribute
that could be trusted, so the picture decides: the page is drawn with its text and without it, and a character is
visible where that makes a difference in the middle of its box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_ablate.pdf.scripts import unspaced

if TYPE_CHECKING:
    import pypdfium2

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in points, from the picture's lower left corner."""

_SCALE = 2.0
"""Pixels a point: thin strokes of small print must leave a mark."""
_MOST = 2048
"""Pixels of the longer side; larger pages are compared at a lower resolution."""
_DIFFERENCE = 40
"""Of 255, in any colour: what a reader can tell from the ground."""
_MIDDLE = 0.25
"""Share of a letter's height above and below its middle: what looks out from behind a bar is not read."""
_DEEPEST = 8
"""Levels of nested form objects."""


def hidden_characters(page: pypdfium2.PdfPage, codes: Sequence[int], boxes: Sequence[Box]) -> set[int]:
    """Indices of the characters that cannot be read in the page's picture.

    Args:
        codes: the characters; 32 and below have no ink and are never hidden.
        boxes: their boxes. One without an area (PDFium makes some for signs that no glyph draws) says nothing.

    Where a letter or digit of a word is hidden the whole word is; of scripts without blanks, that character alone.
    """
    inked = [i for i, code in enumerate(codes) if code > 32 and code not in (0xA0, 0xFFFE, 0xFFFF)]
    inked = [i for i in inked if boxes[i][2] > boxes[i][0] and boxes[i][3] > boxes[i][1]]
    if not inked:
        return set()
    width, height = page.get_size()
    scale = min(_SCALE, _MOST / max(width, height, 1.0))
    with_text = _drawn(page, scale)
    with _without_text(page):
        without = _drawn(page, scale)
    differs = np.maximum(with_text, without) - np.minimum(with_text, without) >= _DIFFERENCE
    differs = differs[..., 0] | differs[..., 1] | differs[..., 2]
    unseen = {i for i in inked if not _shown(differs, boxes[i], scale, _character(codes[i]))}
    broken = (word for word in _words(codes) if any(i in unseen and _character(codes[i]).isalnum() for i in word))
    return unseen.union(*broken)


def _drawn(page: pypdfium2.PdfPage, scale: float) -> np.ndarray:
    return np.array(page.render(scale=scale, prefer_bgrx=False).to_numpy()[..., :3])


def _shown(differs: np.ndarray, box: Box, scale: float, character: str) -> bool:
    left, bottom, right, top = (side * scale for side in box)
    # Marks such as ":" and "=", and some Chinese characters, have no ink in their middle.
    if top - bottom >= 6 and character.isalnum() and not unspaced(character):
        bottom, top = bottom + _MIDDLE * (top - bottom), top - _MIDDLE * (top - bottom)
    else:  # a thin mark may lie between two rows of pixels
        bottom, top = bottom - 1, top + 1
    rows = len(differs)
    first, last = max(int(rows - top), 0), max(int(np.ceil(rows - bottom)), 0)
    return bool(differs[first:last, max(int(left), 0) : max(int(np.ceil(right)), 0)].any())


def _words(codes: Sequence[int]) -> Iterator[list[int]]:
    """Runs of characters without blanks, of scripts that set blanks."""
    word: list[int] = []
    for i, code in enumerate(codes):
        if code > 32 and code != 0xA0 and not unspaced(_character(code)):
            word.append(i)
        else:
            yield word
            word = []
    yield word


def _character(code: int) -> str:
    return chr(code) if code < 0x110000 else " "


@contextmanager
def _without_text(page: pypdfium2.PdfPage) -> Iterator[None]:
    """Text in the invisible mode; put back afterwards."""
    import pypdfium2.raw as raw

    texts = list(_text_objects(page, raw))
    modes = [raw.FPDFTextObj_GetTextRenderMode(text) for text in texts]
    for text in texts:
        raw.FPDFTextObj_SetTextRenderMode(text, raw.FPDF_TEXTRENDERMODE_INVISIBLE)
    try:
        yield
    finally:
        for text, mode in zip(texts, modes, strict=True):
            raw.FPDFTextObj_SetTextRenderMode(text, mode)


def _text_objects(page: pypdfium2.PdfPage, raw: Any) -> Iterator[Any]:
    """Objects that draw text, also inside form objects."""
    todo = [(raw.FPDFPage_GetObject(page, i), 0) for i in range(raw.FPDFPage_CountObjects(page))]
    while todo:
        drawn, depth = todo.pop()
        kind = raw.FPDFPageObj_GetType(drawn)
        if kind == raw.FPDF_PAGEOBJ_TEXT:
            yield drawn
        elif kind == raw.FPDF_PAGEOBJ_FORM and depth < _DEEPEST:
            count = raw.FPDFFormObj_CountObjects(drawn)
            todo += [(raw.FPDFFormObj_GetObject(drawn, i), depth + 1) for i in range(count)]
