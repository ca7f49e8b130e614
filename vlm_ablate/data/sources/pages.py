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
from vlm_ablate.errors import AssetMissing, DataError


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
        if len(drawn) > len(pages):
            raise UnusableSample(name, "wrong record", f"{len(drawn)} pages are drawn, {len(pages)} transcribed")
        texts = [_page_text(page) for page in pages[: self.config.max_pages]]
        pictures = self._pictures(drawn, row, name, len(texts))
        if len(pictures) < len(texts):
            raise UnusableSample(name, "wrong record", f"{len(pictures)} pages are drawn, {len(texts)} transcribed")
        found: list[Segment] = []
        for number, (picture, text) in enumerate(zip(pictures, texts, strict=False)):
            if text:
                found += [picture, Text(text + "\n" * (number + 1 < len(texts)), True)]
        return found

    def _pictures(self, cells: list[Any], row: Row, name: str, count: int) -> list[Image]:
        if self._picture == "pdf":
            return [Image(ref) for ref in _pdf_pages(cells[0] if cells else None, name, count, self.config.dpi)]
        pictures = [self.picture(c, row, name) for c in cells[:count]]
        if len(pictures) == 1 and count > 1:
            return [Image(ref) for ref in _frames(pictures[0].ref, name, count)]
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


def _frames(ref: ImageRef, name: str, count: int) -> list[ImageRef]:
    """The first frames of a TIFF."""
    try:
        source = ref.source
        image = PilImage.open(io.BytesIO(source) if isinstance(source, bytes) else Path(str(source)))
        frames = []
        for number in range(min(count, getattr(image, "n_frames", 1))):
            image.seek(number)
            frames.append(ImageRef(image.copy(), f"page {number + 1} of {name}"))
        return frames
    except Exception as error:
        raise UnusableSample(name, "undecodable image", f"its pages cannot be read: {error}") from error


def _pdf_pages(data: Any, name: str, count: int, dpi: int) -> list[ImageRef]:
    """The first pages of a PDF, drawn with pypdfium2."""
    try:
        import pypdfium2
    except ImportError as error:
        raise AssetMissing("reading PDF pages needs pypdfium2", hint="pip install pypdfium2") from error
    if isinstance(data, dict):
        data = data.get("bytes")
    if not isinstance(data, bytes):
        raise UnusableSample(name, "wrong record", "its pdf is not bytes")
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise UnusableSample(name, "undecodable image", f"its PDF cannot be opened: {error}") from error
    try:
        drawn = [document[i].render(scale=dpi / 72).to_pil() for i in range(min(count, len(document)))]
    except pypdfium2.PdfiumError as error:
        raise UnusableSample(name, "undecodable image", f"a page cannot be drawn: {error}") from error
    finally:
        document.close()
    if not drawn:
        raise DataError(f"the PDF of {name} has no pages")
    return [ImageRef(page, f"page {i + 1} of {name}") for i, page in enumerate(drawn)]
