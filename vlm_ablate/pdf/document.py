"""Pages of a PDF: drawn at a resolution, and read as lines with their place, size and face (pypdfium2)."""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_ablate.errors import DataError

if TYPE_CHECKING:
    import pypdfium2

MAX_SIDE = 4096
"""Pixels; larger pages (posters) are drawn at a lower resolution."""
_FIXED_PITCH = 1
_BOLD_WEIGHT = 650


class UnreadablePdf(DataError):
    """A PDF that is skipped; `reason` is short and the same for all of a kind, so that they can be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.message)


@dataclass(frozen=True)
class Word:
    """A word as printed, between blanks. Lengths as those of its line."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    bold: bool
    mono: bool
    whole: bool
    """False: a half of a divided word, or a footnote's mark."""


@dataclass(frozen=True)
class Line:
    """A line of text on a page. Lengths are in points, the origin is the page's lower left corner."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float
    """Font size in the line's middle."""
    bold: bool
    mono: bool
    """A fixed-pitch face: usually code."""
    words: tuple[Word, ...] = ()
    """Where they were asked for (see `words.read_words`)."""


@dataclass(frozen=True)
class PageText:
    """What stands on a page, in the order in which the PDF draws it."""

    number: int
    """From 1."""
    width: float
    height: float
    lines: tuple[Line, ...]

    @cached_property
    def text(self) -> str:
        """All lines."""
        return "\n".join(line.text for line in self.lines)


@contextmanager
def opened(data: bytes) -> Iterator[pypdfium2.PdfDocument]:
    """An open PDF.

    Raises:
        UnreadablePdf: it is encrypted, damaged, or has no page.
    """
    document = open_pdf(data)
    try:
        yield document
    finally:
        document.close()


def open_pdf(data: bytes) -> pypdfium2.PdfDocument:
    """As `opened`, for whoever keeps it open.

    Raises:
        UnreadablePdf: it is encrypted, damaged, or has no page.
    """
    import pypdfium2
    import pypdfium2.raw as raw

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD
        raise UnreadablePdf("encrypted" if locked else "corrupt", str(error)) from error
    if not len(document):
        document.close()
        raise UnreadablePdf("empty", "it has no page")
    return document


def draw_page(page: pypdfium2.PdfPage, dpi: int, image_format: str = "png") -> bytes:
    """The page as PNG or JPEG; grey pages are stored in grey.

    Raises:
        UnreadablePdf: the page cannot be drawn.
    """
    from PIL import Image as PilImage

    width, height = page.get_size()
    scale = min(dpi / 72, MAX_SIDE / max(width, height, 1.0))
    pixels = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False).to_numpy()[..., :3]
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    picture = PilImage.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 90} if image_format == "jpeg" else {}), dpi=(dpi, dpi))
    return buffer.getvalue()


def read_page(page: pypdfium2.PdfPage, number: int) -> PageText:
    """The lines of a page."""
    import pypdfium2.raw as raw

    width, height = page.get_size()
    textpage = page.get_textpage()
    try:
        characters = [raw.FPDFText_GetUnicode(textpage, i) for i in range(textpage.count_chars())]
        lines = [found for start, stop in _runs(characters) if (found := _line(textpage, raw, characters, start, stop))]
    finally:
        textpage.close()
    return PageText(number, width, height, tuple(lines))


def _runs(characters: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for i, code in enumerate([*characters, 10]):
        if code in (10, 13):
            if i > start:
                yield start, i
            start = i + 1


def _line(textpage: Any, raw: Any, characters: list[int], start: int, stop: int) -> Line | None:
    text = clean("".join(map(_character, characters[start:stop])))
    drawn = [i for i in range(start, stop) if characters[i] > 32]
    if not text or not drawn:
        return None
    sampled = (drawn[0], drawn[len(drawn) // 2], drawn[-1])
    boxes = [_box(textpage, raw, i) for i in sampled]
    middle = sampled[1]
    faces = [_face(textpage, raw, i) for i in sampled]
    bold, mono = all(b for b, _ in faces), sum(m for _, m in faces) > 1
    # The declared size ignores scaling of the text matrix; the glyph's box does not.
    size = raw.FPDFText_GetFontSize(textpage, middle)
    height = boxes[1][3] - boxes[1][1]
    return Line(
        text, min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes),
        round(size if size > 1.5 else height, 1), bold, mono,
    )


def _face(textpage: Any, raw: Any, index: int) -> tuple[bool, bool]:
    """(bold, fixed pitch) of a character."""
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int(0)
    raw.FPDFText_GetFontInfo(textpage, index, name, 128, flags)
    face = name.value.decode(errors="replace").lower()
    # Faces of the TeX family say neither their weight nor their pitch in the flags.
    mono = bool(flags.value & _FIXED_PITCH) or bool(re.search(r"mono|courier|cmtt|consol|typewriter", face))
    bold = "bold" in face or "cmbx" in face or raw.FPDFText_GetFontWeight(textpage, index) >= _BOLD_WEIGHT
    return bold, mono


def _character(code: int) -> str:
    return chr(code) if 0 < code < 0x110000 else ""


def _box(textpage: Any, raw: Any, index: int) -> tuple[float, float, float, float]:
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    raw.FPDFText_GetCharBox(textpage, index, left, right, bottom, top)
    return left.value, bottom.value, right.value, top.value


_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "\u00a0": " ", "\u00ad": ""})
_HYPHENS = re.compile("[\x02\ufffe\uffff]")
"""What PDFium puts where a word was divided at the end of a line; it joins the halves itself."""


def clean(text: str) -> str:
    """Text as a person would type it: ligatures in letters, no control characters, single blanks."""
    return re.sub(r"\s+", " ", _HYPHENS.sub("", text.translate(_LIGATURES))).strip()
