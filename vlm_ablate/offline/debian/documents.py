"""The manuals that Debian's packages carry as PDF: every page's words with their boxes and faces, and its picture.

What was read is kept below the cache folder, one file of JSON lines a PDF, named by what decides its content. Pictures
are not kept: drawing a part of a page takes no longer (1 ms) than unpacking a picture of the page would.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import zlib
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_ablate.docmatix.find import find_pdfs, read_pdf
from vlm_ablate.errors import DataError
from vlm_ablate.home import Home
from vlm_ablate.offline.debian.catalogue import folders
from vlm_ablate.offline.pictures import Split, split_of
from vlm_ablate.pdf.document import Line, PageText, UnreadablePdf, Word, open_pdf, opened
from vlm_ablate.pdf.layout import Face, Layout, face_of
from vlm_ablate.pdf.words import read_words
from vlm_ablate.storage import locked, write_atomically

if TYPE_CHECKING:
    import pypdfium2

DPI = 72
"""Resolution of the pages' pictures: text of 10 points is 10 pixels tall, and a pixel is a point."""
LEAST_WORDS = 20
"""Words that a page must have to be asked about."""
READER_VERSION = 4
"""Raise when what is kept of a PDF changes."""

# Whole documents belong to one split, so that no page of a reported document was seen in training.
SPLIT_OF_DOCUMENT: dict[str, Split] = {
    "gnuplot-doc/gnuplot": "train", "developers-reference/developers-reference": "train",
    "debian-policy/fhs-3.0": "tune",
    "debian-policy/policy": "report", "debian-faq/debian-faq.en": "report", "debian-faq/debian-faq": "report",
}


@dataclass(frozen=True, eq=False)
class Document:
    """One PDF."""

    name: str
    """Package and file, without its ending."""
    path: Path
    key: str
    """Hash of its content."""
    face: Face
    count: int
    """All of its pages."""
    numbers: tuple[int, ...]
    """Pages (from 1) with enough text and without figures, whose words nobody could tell."""
    kept: tuple[str, ...]
    """What is kept of each page."""

    @property
    def split(self) -> Split:
        """The split that all of its pages belong to."""
        return SPLIT_OF_DOCUMENT.get(self.name) or split_of(self.name)


def documents() -> tuple[Document, ...]:
    """The PDFs of the fetched packages, each content once; read on first use (10 s), later taken from the cache.

    Raises:
        AssetMissing: a package was not fetched.
        DataError: a fetched package has no PDF, or one that is damaged.
        StorageError: the cache folder cannot be written.
    """
    return _documents(tuple(folders("documents")), Home.default().cache / "documents")


def pages(split: Split) -> tuple[tuple[Document, int], ...]:
    """(document, page number) of all pages of a split that can be asked about."""
    return tuple((document, n) for document in documents() if document.split == split for n in document.numbers)


@lru_cache(maxsize=4)
def _documents(packages: tuple[Path, ...], cache: Path) -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    for package in packages:
        try:
            pdfs = find_pdfs(package).pdfs
        except DataError as error:
            raise DataError(f"the fetched package {package.name!r} has no PDF", hint=_again(package)) from error
        for pdf in pdfs:
            name = f"{package.name}/{pdf.path.name.lower().removesuffix('.gz').removesuffix('.pdf')}"
            data = _bytes(pdf.path, package)
            key = hashlib.sha256(data).hexdigest()[:16]
            if key not in found:
                lines = _kept(data, key, pdf.path, package, cache)
                head = json.loads(lines[0])
                face = Face(head["body_size"], frozenset(head["running"]), head["offset"])
                found[key] = Document(name, pdf.path, key, face, len(lines) - 1, tuple(head["numbers"]), lines[1:])
    return tuple(found.values())


def _again(package: Path) -> str:
    return f"delete {package} and run `vlm-ablate data fetch documents`"


def _bytes(path: Path, package: Path) -> bytes:
    try:
        return read_pdf(path)
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}", hint=_again(package)) from error


def _kept(data: bytes, key: str, path: Path, package: Path, cache: Path) -> tuple[str, ...]:
    """The PDF's head and pages as JSON lines; read under a lock by the first who asks."""
    decided_by = f"{key}/{READER_VERSION}/{LEAST_WORDS}/{metadata.version('pypdfium2')}"
    file = cache / f"{path.name.split('.pdf')[0]}-{hashlib.sha256(decided_by.encode()).hexdigest()[:16]}.jsonl"
    with locked(cache / f"{file.name}.lock"):
        if not file.exists():
            try:
                write_atomically(file, _read(data))
            except UnreadablePdf as error:
                raise DataError(f"{path} is {error.reason}: {error.message}", hint=_again(package)) from error
    return tuple(file.read_text(encoding="utf-8").splitlines())


def _read(data: bytes) -> str:
    import pypdfium2

    try:
        with opened(data) as document:
            texts, figures = [], set()
            for index in range(len(document)):
                page = document[index]
                texts.append(read_words(page, index + 1))
                if _has_figure(page):
                    figures.add(index + 1)
                page.close()
    except pypdfium2.PdfiumError as error:
        raise UnreadablePdf("corrupt", str(error)) from error
    face = face_of(texts)
    enough = [p.number for p in texts if sum(len(line.words) for line in p.lines) >= LEAST_WORDS]
    head: dict[str, Any] = {"body_size": face.body_size, "running": sorted(face.running), "offset": face.offset,
                            "numbers": [n for n in enough if n not in figures]}
    return "\n".join([json.dumps(head), *(json.dumps(_packed(text)) for text in texts)]) + "\n"


def _has_figure(page: pypdfium2.PdfPage) -> bool:
    import pypdfium2.raw as raw

    drawn = (raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_FORM, raw.FPDF_PAGEOBJ_SHADING)
    return any(raw.FPDFPageObj_GetType(raw.FPDFPage_GetObject(page, i)) in drawn
               for i in range(raw.FPDFPage_CountObjects(page)))


def _packed(text: PageText) -> dict[str, Any]:
    """A page as plain data, words as lists in the order of their fields, to hundredths of a point."""
    lines = [
        {**{k: v for k, v in vars(line).items() if k != "words"},
         "words": [[round(v, 2) if isinstance(v, float) else v for v in asdict(word).values()] for word in line.words]}
        for line in text.lines
    ]
    return {"number": text.number, "width": text.width, "height": text.height, "lines": lines}


@lru_cache(maxsize=1024)
def page_layout(document: Document, number: int) -> Layout:
    """A page (from 1) taken apart; its lines have words."""
    body = json.loads(document.kept[number - 1])
    lines = [Line(**{**line, "words": tuple(Word(*word) for word in line["words"])}) for line in body["lines"]]
    return Layout(PageText(body["number"], body["width"], body["height"], tuple(lines)), document.face)


def page_picture(document: Document, number: int, left: int, top: int, size: int) -> np.ndarray:
    """A square of a page (from 1) drawn at `DPI`: (size, size, 3) uint8; what lies beyond the page is white.

    Args:
        left, top: the square's place in the page's picture, in pixels; may be negative.
    """
    page = _open(document)[number - 1]
    try:
        width, height = (math.ceil(side * DPI / 72) for side in page.get_size())
        right, bottom = max(width - left - size, 0), max(height - top - size, 0)
        part = page.render(scale=DPI / 72, rev_byteorder=True, prefer_bgrx=False,
                           crop=(max(left, 0), bottom, right, max(top, 0))).to_numpy()[..., :3]
        picture = np.full((size, size, 3), 255, np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
        return picture
    finally:
        page.close()


@lru_cache(maxsize=8)
def _open(document: Document) -> pypdfium2.PdfDocument:
    pdf = open_pdf(read_pdf(document.path))
    _close_at_exit()
    return pdf


@cache
def _close_at_exit() -> None:
    """Close before pypdfium2 does, which prints a line for each document; it has to be imported by now."""
    atexit.register(_open.cache_clear)
