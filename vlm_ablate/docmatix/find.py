"""The PDFs of a folder: every one once, in the order of their paths."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from vlm_ablate.errors import DataError
from vlm_ablate.limits import gunzipped

ENDINGS = (".pdf", ".pdf.gz")
"""Also gzipped, as Debian's documentation packages ship them."""


@dataclass(frozen=True)
class Pdf:
    """One PDF file."""

    path: Path
    name: str
    """Its path below the searched folder, printable (see `printable`)."""
    key: str
    """Hash of its content."""


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    pdfs: tuple[Pdf, ...]
    duplicates: int
    """Files with the content of an earlier one (links count)."""
    unreadable: int
    """Files that could not be opened at all."""


def find_pdfs(folder: Path) -> Found:
    """All PDFs at or below `folder`, files of equal content once.

    Raises:
        DataError: there is no such folder, or no PDF in it.
    """
    if not folder.exists():
        raise DataError(f"{str(folder)!r} does not exist", hint="name a folder that holds PDFs, or one PDF")
    files = sorted(p for p in folder.rglob("*") if is_pdf(p)) if folder.is_dir() else [folder]
    if not files:
        raise DataError(
            f"no PDF in {str(folder)!r} or below it",
            hint="files must end in .pdf or .pdf.gz; many of Debian's *-doc packages carry some",
        )
    pdfs: dict[str, Pdf] = {}
    unreadable = duplicates = 0
    for path in files:
        try:
            key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        except OSError:
            unreadable += 1
            continue
        duplicates += key in pdfs
        name = printable(path.relative_to(folder).as_posix() if folder.is_dir() else path.name)
        pdfs.setdefault(key, Pdf(path, name, key))
    return Found(tuple(pdfs.values()), duplicates, unreadable)


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere; bytes that are no UTF-8 stand as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_pdf(path: Path) -> bool:
    """Whether the name is that of a PDF."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def read_pdf(path: Path) -> bytes:
    """The PDF's bytes, unpacked if gzipped.

    Raises:
        OSError: it cannot be read, its compression is damaged, or it unpacks to more than a PDF can be.
    """
    if not path.name.lower().endswith(".gz"):
        return path.read_bytes()
    try:
        return gunzipped(path)
    except DataError as error:
        raise OSError(error.message) from error
