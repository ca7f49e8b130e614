"""Tiny manuals in the places of the packages' PDFs."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from tests.docmatix.pdfs import Put, manual, pdf_bytes
from tests.offline.conftest import Place

FILES: dict[str, dict[str, list[list[Put]]]] = {
    "debian-policy": {
        "usr/share/doc/debian-policy/policy.pdf.gz": manual("Alpha", 8),
        "usr/share/doc/debian-policy/fhs/fhs-3.0.pdf.gz": manual("Beta", 5),
    },
    "developers-reference": {"usr/share/developers-reference/developers-reference.pdf": manual("Gamma", 6)},
    # The FAQ is shipped twice, under two names.
    "debian-faq": dict.fromkeys(
        ("usr/share/doc/debian/FAQ/debian-faq.en.pdf.gz", "usr/share/doc/debian/FAQ/debian-faq.pdf.gz"),
        manual("Delta", 4),
    ),
    "gnuplot-doc": {"usr/share/doc/gnuplot/gnuplot.pdf": manual("Epsilon", 7)},
}


def put_manuals(place: Place, replaced: Mapping[str, bytes] | None = None) -> None:
    """Every package of the collection, as if fetched; `replaced`: files (by their last name) of another content."""
    for package, files in FILES.items():
        content = {}
        for name, pages in files.items():
            data = pdf_bytes(pages)
            made = gzip.compress(data, mtime=0) if name.endswith(".gz") else data
            content[name] = (replaced or {}).get(name.rsplit("/", 1)[-1], made)
        place(package, content)
