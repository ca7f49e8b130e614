"""A folder of tiny PDFs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docmatix.pdfs import manual, pdf_bytes, write_pdf


@pytest.fixture
def pdfs(tmp_path: Path) -> Path:
    """Three readable PDFs (one gzipped, one below a folder), a copy, one damaged, one cut short, one locked."""
    folder = tmp_path / "pdfs"
    write_pdf(folder / "alpha.pdf", manual("Alpha", 6))
    write_pdf(folder / "beta.pdf.gz", manual("Beta", 5))
    write_pdf(folder / "below" / "gamma.pdf", manual("Gamma", 3))
    write_pdf(folder / "z_copy.pdf", manual("Alpha", 6))
    write_pdf(folder / "locked.pdf", manual("Delta", 3), locked=True)
    (folder / "damaged.pdf").write_bytes(b"%PDF-1.4\nthis is not a PDF")
    (folder / "torn.pdf.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    (folder / "cut.pdf").write_bytes(pdf_bytes(manual("Epsilon", 3))[:40])
    (folder / "notes.txt").write_text("not a PDF")
    return folder
