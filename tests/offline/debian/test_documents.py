"""Manuals as they are read from fetched packages: once each, whole, in one split, kept in the cache."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.docmatix.pdfs import Put, manual, page, pdf_bytes
from tests.offline.conftest import Place
from tests.offline.manuals import FILES, put_manuals
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.home import Home
from vlm_ablate.offline.debian import documents
from vlm_ablate.offline.debian.documents import page_layout, page_picture, pages
from vlm_ablate.offline.pictures import SPLITS


def test_every_content_is_read_once(place: Place) -> None:
    put_manuals(place)
    found = documents.documents()
    assert [d.name for d in found] == [
        "debian-policy/fhs-3.0", "debian-policy/policy", "developers-reference/developers-reference",
        "debian-faq/debian-faq.en", "gnuplot-doc/gnuplot",
    ]
    assert [d.count for d in found] == [5, 8, 6, 4, 7]
    # Title pages have too few words to ask for.
    assert all(d.numbers == tuple(range(2, d.count + 1)) for d in found)


def test_whole_documents_belong_to_one_split(place: Place) -> None:
    put_manuals(place)
    named = {split: {document.name for document, _ in pages(split)} for split in SPLITS}
    assert named == {
        "train": {"gnuplot-doc/gnuplot", "developers-reference/developers-reference"},
        "tune": {"debian-policy/fhs-3.0"}, "report": {"debian-policy/policy", "debian-faq/debian-faq.en"},
    }
    assert sum(len(pages(split)) for split in SPLITS) == 4 + 7 + 5 + 3 + 6


def test_a_document_that_nobody_assigned_goes_where_its_name_falls(place: Place) -> None:
    put_manuals(place)
    place("debian-policy", {f"usr/share/doc/debian-policy/more/{n}.pdf": pdf_bytes(manual(f"M{n}", 4))
                            for n in range(12)})
    others = [d for d in documents.documents() if d.name not in documents.SPLIT_OF_DOCUMENT]
    assert len(others) == 12 and len({d.split for d in others}) > 1
    assert all(d.split == documents.split_of(d.name) for d in others)


def test_a_page_keeps_its_words_and_its_picture(place: Place) -> None:
    put_manuals(place)
    policy = documents.documents()[1]
    layout = page_layout(policy, 4)
    assert [h.text for h in layout.headings] == ["2 Part 2 of Alpha", "2.1 Care of Alpha parts"]
    line = layout.page.lines[0]
    assert " ".join(w.text for w in line.words) == line.text and line.words[0].bold
    whole = page_picture(policy, 4, 0, 0, 400)
    assert whole.shape == (400, 400, 3) and whole.dtype == np.uint8 and (whole[:, 300:] == 255).all()
    for word in (w for line in layout.page.lines for w in line.words):
        assert whole[int(400 - word.top) : int(400 - word.bottom) + 1, int(word.left) : int(word.right) + 1].min() < 160
    assert (page_picture(policy, 4, -10, -20, 500)[20:420, 10:310] == whole[:, :300]).mean() > 0.99


def test_what_is_open_is_closed_at_the_end(place: Place) -> None:
    put_manuals(place)
    code = """
import atexit
from vlm_ablate.offline.debian import documents
atexit.register(lambda: print(documents._open.cache_info().currsize))  # registered first, so run last
documents.page_picture(*documents.pages("report")[0], 0, 0, 40)
print(documents._open.cache_info().currsize)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("1\n0\n", "", 0)


def test_pages_with_figures_are_not_asked_about(place: Place) -> None:
    drawn = pdf_bytes(manual("Alpha", 4)).replace(b"BT /F1 7", b"BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI BT /F1 7", 1)
    put_manuals(place, {"gnuplot.pdf": drawn})
    assert documents.documents()[-1].numbers == (3, 4)


def test_what_was_read_is_kept_and_not_read_again(place: Place, tmp_path: Path, monkeypatch) -> None:
    put_manuals(place)
    first = documents.documents()
    kept = sorted(tmp_path.joinpath("cache/documents").glob("*.jsonl"))
    assert len(kept) == 5 and not list(tmp_path.rglob("*.partial"))
    documents._documents.cache_clear()
    monkeypatch.setattr(documents, "_read", lambda data: pytest.fail("read again"))
    again = documents.documents()
    assert [(d.key, d.face, d.kept) for d in first] == [(d.key, d.face, d.kept) for d in again]


def test_another_content_is_kept_apart(place: Place) -> None:
    put_manuals(place)
    before = {d.key for d in documents.documents()}
    put_manuals(place, {"gnuplot.pdf": pdf_bytes(manual("Zeta", 5))})
    documents._documents.cache_clear()
    assert len(before & {d.key for d in documents.documents()}) == 4


def test_without_the_packages_the_message_says_how_to_get_them(place: Place) -> None:
    place("debian-policy", {"policy.pdf": pdf_bytes(manual("Alpha", 3))})
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch documents"):
        documents.documents()


@pytest.mark.parametrize(("name", "data"), [
    ("gnuplot.pdf", b"%PDF-1.4\nthis is not a PDF"),
    ("gnuplot.pdf", pdf_bytes(manual("Alpha", 3), locked=True)),
    ("policy.pdf.gz", b"\x1f\x8b\x08\x00broken"),
    ("policy.pdf.gz", gzip.compress(pdf_bytes(manual("Alpha", 3))[:60], mtime=0)),
    ("policy.pdf.gz", b"not even compressed"),
], ids=["no pdf", "locked", "broken gzip", "cut short", "not compressed"])
def test_a_damaged_pdf_is_named(place: Place, name: str, data: bytes) -> None:
    put_manuals(place, {name: data})
    with pytest.raises(DataError, match=name) as raised:
        documents.documents()
    assert "vlm-ablate data fetch documents" in str(raised.value)


def test_a_package_without_a_pdf_is_named(place: Place) -> None:
    put_manuals(place)
    for path in Home.default().assets.rglob("gnuplot.pdf"):
        path.unlink()
    with pytest.raises(DataError, match="'gnuplot-doc' has no PDF"):
        documents.documents()


def test_what_is_kept_is_plain_json(place: Place) -> None:
    put_manuals(place, {"gnuplot.pdf": pdf_bytes([page("# 1 Größe", *["café “zwölf” words – here"] * 8)])})
    document = documents.documents()[-1]
    assert json.loads(document.kept[0])["lines"][0]["text"] == "1 Größe"
    assert page_layout(document, 1).page.lines[1].words[0].text == "café"


def test_files_cover_the_catalogue() -> None:
    from vlm_ablate.offline.debian.catalogue import packages

    assert set(FILES) == {package.name for package in packages("documents")}
    assert all(isinstance(put, Put) for files in FILES.values() for made in files.values() for p in made for put in p)
