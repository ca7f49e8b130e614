"""Pages of a PDF: drawn at a resolution, and read as lines with their place, size and face (pypdfium2)."""

from __future__ import annotations

import ctypes
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vlm_ablate.errors import DataError
from vlm_ablate.pdf.visible import Box, hidden_characters

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
    """A line of text on a page. Lengths are in points, the origin is the lower left corner of the page's picture."""

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
    hidden: int = 0
    """Characters of the PDF that the page's picture does not show; no line has them."""

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
        if _loads(data):  # only its pages are missing, for which PDFium gives the error of another file
            raise UnreadablePdf("empty", "it has no page") from error
        locked = getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD
        raise UnreadablePdf("encrypted" if locked else "corrupt", str(error)) from error
    try:
        document.init_forms()  # before anything else, or what was filled into a form is not drawn
    except pypdfium2.PdfiumError as error:
        document.close()
        raise UnreadablePdf("corrupt", str(error)) from error
    if not len(document):
        document.close()
        raise UnreadablePdf("empty", "it has no page")
    return document


def _loads(data: bytes) -> bool:
    """Whether PDFium takes it for a document, with pages or without."""
    import pypdfium2.raw as raw

    document = raw.FPDF_LoadMemDocument64(data, len(data), None)
    if document:
        raw.FPDF_CloseDocument(document)
    return bool(document)


def draw_page(page: pypdfium2.PdfPage, dpi: int, image_format: str = "png") -> bytes:
    """The page as PNG or JPEG; grey pages are stored in grey.

    Raises:
        pypdfium2.PdfiumError: the page has no area, or cannot be drawn.
    """
    from PIL import Image as PilImage

    width, height = page_size(page)
    scale = min(dpi / 72, MAX_SIDE / max(width, height, 1.0))
    pixels = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False).to_numpy()[..., :3]
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    picture = PilImage.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 90} if image_format == "jpeg" else {}), dpi=(dpi, dpi))
    return buffer.getvalue()


def page_size(page: pypdfium2.PdfPage) -> tuple[float, float]:
    """(width, height) of a page's picture in points.

    Raises:
        pypdfium2.PdfiumError: it has no area, as where the crop box lies outside the paper; nothing of it can be drawn.
    """
    import pypdfium2

    width, height = page.get_size()
    if width <= 0 or height <= 0:
        raise pypdfium2.PdfiumError(f"it has no area ({width:g} x {height:g} points)")
    return width, height


def read_page(page: pypdfium2.PdfPage, number: int) -> PageText:
    """The lines of a page, with what its picture shows (see `visible`).

    Raises:
        pypdfium2.PdfiumError: the page has no area.
    """
    width, height = page_size(page)
    with opened_text(page) as text:
        lines = [found for start, stop in runs(text.characters) if (found := _line(text, start, stop))]
        return PageText(number, width, height, tuple(lines), text.hidden)


class TextLayer:
    """The characters of one page, by PDFium's index.

    Args:
        page: the page.
        textpage: its text, open.
    """

    def __init__(self, page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage) -> None:
        import pypdfium2.raw as raw

        self.raw, self.textpage = raw, textpage
        self.bounds, self.rotation = page.get_bbox(), page.get_rotation()
        self.characters = [raw.FPDFText_GetUnicode(textpage, i) for i in range(textpage.count_chars())]
        boxes = [self.box(i) for i in range(len(self.characters))]
        hidden = hidden_characters(page, self.characters, boxes)
        self.hidden = len(hidden)
        for i in hidden:
            self.characters[i] = 0

    def text(self, start: int, stop: int) -> str:
        """Cleaned text of a range of characters, without those that are hidden."""
        return clean("".join(map(character, self.characters[start:stop])))

    def box(self, index: int) -> Box:
        """A character's box in the page's picture."""
        left, right, bottom, top = (ctypes.c_double() for _ in range(4))
        self.raw.FPDFText_GetCharBox(self.textpage, index, left, right, bottom, top)
        return self.placed((left.value, bottom.value, right.value, top.value))

    def placed(self, box: Box) -> Box:
        """A box of the page's own coordinates in its picture, which may be cropped and turned (clockwise)."""
        x, y, end_x, end_y = self.bounds
        left, bottom, right, top = box[0] - x, box[1] - y, box[2] - x, box[3] - y
        width, height = end_x - x, end_y - y
        match self.rotation:
            case 90:
                return bottom, width - right, top, width - left
            case 180:
                return width - right, height - top, width - left, height - bottom
            case 270:
                return height - top, left, height - bottom, right
            case _:
                return left, bottom, right, top

    def face(self, index: int) -> tuple[bool, bool]:
        """(bold, fixed pitch) of a character."""
        name, flags = ctypes.create_string_buffer(128), ctypes.c_int(0)
        self.raw.FPDFText_GetFontInfo(self.textpage, index, name, 128, flags)
        face = name.value.decode(errors="replace").lower()
        # Faces of the TeX family say neither their weight nor their pitch in the flags.
        mono = bool(flags.value & _FIXED_PITCH) or bool(re.search(r"mono|courier|cmtt|consol|typewriter", face))
        weight = self.raw.FPDFText_GetFontWeight(self.textpage, index)
        return "bold" in face or "cmbx" in face or weight >= _BOLD_WEIGHT, mono

    def size(self, index: int) -> float:
        """A character's font size in points."""
        size = float(self.raw.FPDFText_GetFontSize(self.textpage, index))
        if size > 1.5:
            return size
        # Many programs declare a size of 1 and scale the text instead, which the declared size ignores.
        matrix = self.raw.FS_MATRIX()
        if self.raw.FPDFText_GetMatrix(self.textpage, index, matrix):
            return size * math.hypot(matrix.c, matrix.d)
        box = self.box(index)
        return box[3] - box[1]


@contextmanager
def opened_text(page: pypdfium2.PdfPage) -> Iterator[TextLayer]:
    """A page's text layer."""
    textpage = page.get_textpage()
    try:
        yield TextLayer(page, textpage)
    finally:
        textpage.close()


def runs(characters: list[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of the ranges between line ends."""
    start = 0
    for i, code in enumerate([*characters, 10]):
        if code in (10, 13):
            if i > start:
                yield start, i
            start = i + 1


def _line(layer: TextLayer, start: int, stop: int) -> Line | None:
    text = layer.text(start, stop)
    drawn = [i for i in range(start, stop) if layer.characters[i] > 32]
    if not text or not drawn:
        return None
    sampled = (drawn[0], drawn[len(drawn) // 2], drawn[-1])
    boxes = [layer.box(i) for i in sampled]
    faces = [layer.face(i) for i in sampled]
    bold, mono = all(b for b, _ in faces), sum(m for _, m in faces) > 1
    return Line(
        text, min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes),
        round(layer.size(sampled[1]), 1), bold, mono,
    )


def character(code: int) -> str:
    """A character by its code; "" for what is none, or hidden."""
    return chr(code) if 0 < code < 0x110000 else ""


_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "\u00a0": " ", "\u00ad": ""})
_NOTHING = re.compile(r"[\x02\ufffe\uffff\x7f-\x84\x86-\x9f]")
"""What PDFium puts where a word was divided at the end of a line, whose halves it joins itself; and control characters
that words may hold."""
_BLANKS = re.compile(r"[\s\x00-\x1f]+")
"""Control characters that stand between words as blanks do (see `words.read_words`)."""


def clean(text: str) -> str:
    """Text as a person would type it: ligatures in letters, no control characters, single blanks."""
    return _BLANKS.sub(" ", _NOTHING.sub("", text.translate(_LIGATURES))).strip()
