"""Transcribed pages: OCR-IDL (pixparse/idl-wds) and PDFA (pixparse/pdfa-eng-wds).

A row holds the pages as `images` or `image` (a TIFF may have several pages), or a `pdf`, and in `pages` what is
written on each: {"text": string or list of lines} or {"lines" or "words": {"text": list}}. Without `pages`, `text`
is the transcription of a single page.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from vlm_ablate.data.sample import Image, ImageRef, Segment, Text, UnusableSample
from vlm_ablate.data.sources.configs import PagesConfig
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import cells_of, stripped, texts_of
from vlm_ablate.errors import AssetMissing
from vlm_ablate.pdf.document import MAX_SIDE, UnreadablePdf, open_pdf, page_size

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Pages(RecordSource):
    """Page by page: the picture, then its text, which is learned."""

    config: PagesConfig

    def check(self, found: list[str]) -> None:
        pictures = [c for c in ("pdf", "images", "image", "tif") if c in found]
        if not pictures:
            self.required = ("images",)
        else:
            self._picture = pictures[0]
            self.required = (self._picture, "pages" if "pages" in found else "text")
        super().check(found)

    def segments(self, row: Row, name: str) -> list[Segment]:
        written = row[self.required[1]]
        pages = cells_of(written) if self.required[1] == "pages" else [written]
        drawn = cells_of(row[self._picture])
        _check_all_written(len(drawn), len(pages), name)
        texts = [_page_text(page) for page in pages[: self.config.max_pages]]
        pictures = self._pictures(drawn, row, name, len(texts), len(pages))
        if len(pictures) < len(texts):
            raise UnusableSample(name, "wrong record", f"{len(pictures)} pages are drawn, {len(texts)} transcribed")
        found: list[Segment] = []
        for number, (picture, text) in enumerate(zip(pictures, texts, strict=False)):
            if text:
                found += [picture, Text(text + "\n" * (number + 1 < len(texts)), True)]
        return found

    def _pictures(self, cells: list[Any], row: Row, name: str, count: int, written: int) -> list[Image]:
        """The first `count` pages of a document of which `written` are transcribed."""
        if self._picture == "pdf":
            refs = _pdf_pages(cells[0] if cells else None, name, count, written, self.config.dpi)
            return [Image(ref) for ref in refs]
        pictures = [self.picture(c, row, name) for c in cells[:count]]
        if len(cells) == 1 and pictures and (count > 1 or _is_tiff(pictures[0].ref.source)):
            found = [Image(ref) for ref in _frames(pictures[0].ref, name, count, written)]
            return found if count > 1 else pictures  # the first one is decoded when it is asked for
        return pictures


def _page_text(page: Any) -> str:
    """Text of a page in any of the forms above."""
    if isinstance(page, dict):
        for key in ("text", "lines", "words"):
            if page.get(key):
                value = page[key].get("text") if isinstance(page[key], dict) else page[key]
                return _joined(value, key, " " if key == "words" else "\n")
        return ""
    return _joined(page, "a page", "\n")


def _joined(value: Any, field: str, separator: str) -> str:
    return separator.join(filter(None, (stripped(text, field) for text in texts_of(value, field))))


def _is_tiff(source: object) -> bool:
    if isinstance(source, bytes):
        return source[:4] in _TIFF
    try:
        with Path(str(source)).open("rb") as file:
            return file.read(4) in _TIFF
    except OSError:
        return False  # said when it is decoded


def _check_all_written(drawn: int, written: int, name: str) -> None:
    """Which page a text belongs to cannot be told where some have none."""
    if drawn > written:
        raise UnusableSample(name, "wrong record", f"{drawn} pages are drawn, {written} transcribed")


def _frames(ref: ImageRef, name: str, count: int, written: int) -> list[ImageRef]:
    """The first frames of a TIFF of which `written` are transcribed."""
    try:
        source = ref.source
        image = PilImage.open(io.BytesIO(source) if isinstance(source, bytes) else Path(str(source)))
        frames: list[ImageRef] = []
        there = getattr(image, "n_frames", 1)
        _check_all_written(there, written, name)
        for number in range(min(count, there) if count > 1 else 0):
            image.seek(number)
            frames.append(ImageRef(image.copy(), f"page {number + 1} of {name}"))
        return frames
    except UnusableSample:
        raise
    except Exception as error:
        raise UnusableSample(name, "undecodable image", f"its pages cannot be read: {error}") from error


def _pdf_pages(data: Any, name: str, count: int, written: int, dpi: int) -> list[ImageRef]:
    """The first pages of a PDF of which `written` are transcribed, drawn with pypdfium2, forms with what fills them."""
    try:
        import pypdfium2
    except ImportError as error:
        raise AssetMissing("reading PDF pages needs pypdfium2", hint="pip install pypdfium2") from error
    if isinstance(data, dict):
        data = data.get("bytes")
    if not isinstance(data, bytes):
        raise UnusableSample(name, "wrong record", "its pdf is not bytes")
    try:
        document = open_pdf(data)
    except UnreadablePdf as error:
        raise UnusableSample(name, "undecodable image", f"its PDF cannot be opened: {error.message}") from error
    try:
        _check_all_written(len(document), written, name)
        drawn = [_drawn(document[i], dpi) for i in range(min(count, len(document)))]
    except pypdfium2.PdfiumError as error:
        raise UnusableSample(name, "undecodable image", f"a page cannot be drawn: {error}") from error
    finally:
        document.close()
    return [ImageRef(page, f"page {i + 1} of {name}") for i, page in enumerate(drawn)]


def _drawn(page: Any, dpi: int) -> PilImage.Image:
    scale = min(dpi / 72, MAX_SIDE / max(*page_size(page), 1.0))
    drawn: PilImage.Image = page.render(scale=scale).to_pil()
    return drawn
