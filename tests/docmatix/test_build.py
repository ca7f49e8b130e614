"""The whole build: schema, counts, skipped PDFs, resuming, and that it does not depend on how it was run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image as PilImage
from pypdfium2 import PdfiumError

from tests.docmatix.dying import build_or_die
from tests.docmatix.pdfs import Drawn, manual, page, write_pdf
from tests.waiting import wait_for
from vlm_ablate.docmatix import pool, work
from vlm_ablate.docmatix.build import build
from vlm_ablate.docmatix.find import find_pdfs
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.docmatix.work import State
from vlm_ablate.errors import DataError, StorageError


def settings(pdfs: Path, **fields: object) -> BuildSettings:
    return replace(BuildSettings(pdfs, pdfs.parent / "out"), **fields)


def hashes(out: Path) -> dict[str, str]:
    files = [f for f in sorted(out.rglob("*")) if f.is_file() and ".work" not in f.parts]
    return {f.relative_to(out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def rows_of(out: Path) -> list[dict]:
    return [row for f in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(f).to_pylist()]


def test_counts_schema_card_and_skipped_pdfs(pdfs: Path) -> None:
    chosen = settings(pdfs, licence="cc0-1.0")
    counts = build(chosen).counts
    assert counts["pdfs"] == {
        "found": 8,
        "same content as another": 1,
        "cannot be opened": 0,
        "read": 3,
        "encrypted": 1,
        "corrupt": 2,
        "unreadable": 1,
    }
    assert {s["pdf"]: s["why"] for s in counts["skipped"]} == {
        "cut.pdf": "corrupt",
        "damaged.pdf": "corrupt",
        "locked.pdf": "encrypted",
        "torn.pdf.gz": "unreadable",
    }
    assert counts["pages"]["in the files"] == counts["pages"]["read"] == 14
    pairs = counts["pairs"]
    assert pairs["generated"] == pairs["kept"] + sum(pairs["dropped"].values()) and pairs["kept"] > 20
    assert pairs["kept"] == sum(pairs["kinds"].values()) == counts["written"]["pairs"]
    assert counts["rows"]["made"] == 2 + 2 + 1
    assert json.loads((chosen.out / "counts.json").read_text()) == counts

    rows = rows_of(chosen.out)
    assert len(rows) == counts["written"]["rows"] == 5
    assert [len(r["images"]) for r in rows] == [4, 2, 3, 4, 1]
    assert set(rows[0]) == {"images", "texts"} and set(rows[0]["texts"][0]) == {"user", "assistant", "source"}
    assert set(rows[0]["images"][0]) == {"bytes", "path"}
    picture = PilImage.open(io.BytesIO(rows[0]["images"][0]["bytes"]))
    assert picture.size == (625, 834) and picture.mode == "L"  # 300 x 400 points at 150 dpi
    assert rows[0]["texts"][0]["source"].startswith("alpha.pdf#1-4 ")

    card = (chosen.out / "README.md").read_text()
    assert card.startswith("---\nlicense: cc0-1.0\n") and "| PDFs: encrypted | 1 |" in card
    assert f"| pairs kept | {pairs['kept']} |" in card


def test_datasets_reads_it_as_docmatix(pdfs: Path) -> None:
    build(settings(pdfs))
    data = datasets.load_dataset(str(pdfs.parent / "out"), split="train", cache_dir=str(pdfs.parent / "cache"))
    assert isinstance(data.features["images"].feature, datasets.Image)
    assert isinstance(data[0]["images"][0], PilImage.Image) and data[0]["texts"][0]["user"]


def test_the_result_does_not_depend_on_processes_or_shards(pdfs: Path) -> None:
    build(settings(pdfs))
    build(settings(pdfs, out=pdfs.parent / "two", jobs=2))
    assert hashes(pdfs.parent / "out") == hashes(pdfs.parent / "two")
    build(settings(pdfs, out=pdfs.parent / "sharded", rows_per_shard=2))
    files = sorted(f.name for f in (pdfs.parent / "sharded" / "data").iterdir())
    assert files == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert rows_of(pdfs.parent / "sharded") == rows_of(pdfs.parent / "out")


def test_limits(pdfs: Path) -> None:
    counts = build(settings(pdfs, max_pages=2, max_pdfs=2, pages_per_row=1, dpi=36, image_format="jpeg")).counts
    assert counts["pages"]["in the files"] == 9 and counts["pages"]["beyond the limit"] == 5
    assert counts["rows"]["made"] == 4
    picture = PilImage.open(io.BytesIO(rows_of(pdfs.parent / "out")[0]["images"][0]["bytes"]))
    assert picture.format == "JPEG" and picture.size == (150, 200)


def test_built_before_is_not_built_again_and_new_pdfs_are_added(pdfs: Path) -> None:
    assert build(settings(pdfs)).fresh
    before = hashes(pdfs.parent / "out")
    again = build(settings(pdfs))
    assert not again.fresh and hashes(pdfs.parent / "out") == before
    write_pdf(pdfs / "new.pdf", manual("Zeta", 4))
    assert build(settings(pdfs)).counts["pdfs"]["read"] == 4
    next((pdfs.parent / "out" / "data").iterdir()).unlink()
    assert build(settings(pdfs)).fresh, "a missing file is made again"


def test_other_settings_in_the_same_folder_are_refused(pdfs: Path) -> None:
    build(settings(pdfs))
    with pytest.raises(DataError, match=r"begun with other settings: dpi 150, now 100, seed 0, now 1"):
        build(settings(pdfs, dpi=100, seed=1))


def test_killed_builds_continue(tmp_path: Path) -> None:
    """kill -9 in the middle: no process stays, and what was done is not done again."""
    folder = tmp_path / "pdfs"
    for i in range(6):
        write_pdf(folder / f"{i:02}.pdf", manual(f"Item{i}", 12))
    options = ["data", "build-docmatix", str(folder), "-o", str(tmp_path / "out"), "--jobs", "2", "--dpi", "250"]
    code = (
        "import sys; from tests.docmatix.dying import build_few; from vlm_ablate.cli import main; "
        "from vlm_ablate.docmatix import pool; pool._build = build_few; main()"
    )
    command = [sys.executable, "-c", code, *options]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, cwd=root)
    parts = tmp_path / "out" / ".work" / "parts"
    wait_for(lambda: list(parts.glob("*.json")) or process.poll() is not None, 200)
    process.kill()
    process.wait()
    done = {f: f.stat().st_mtime_ns for f in parts.glob("*.json")}
    assert 1 <= len(done) < 6 and not (tmp_path / "out" / "counts.json").exists()
    wait_for(lambda: not _group_alive(process.pid))  # no worker process outlives the build

    built = build(BuildSettings(folder, tmp_path / "out", dpi=250))
    assert {f: f.stat().st_mtime_ns for f in done} == done
    whole = build(BuildSettings(folder, tmp_path / "whole", dpi=250))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole") and built.counts == whole.counts
    assert not list((tmp_path / "out" / ".work" / "parts").glob("*.part")), "pages are not kept twice"


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_pdf_that_cannot_be_drawn_to_its_end_counts_as_nothing(pdfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs are in no row, and so in no sum."""
    chosen = settings(pdfs / "below")
    state = State(chosen.out / ".work")
    state.parts.mkdir(parents=True)
    (pdf,) = find_pdfs(chosen.pdfs).pdfs

    def broken(*_: object) -> bytes:
        raise PdfiumError("the page's content ends too early")

    monkeypatch.setattr(work, "draw_page", broken)
    counts = work.build_part(pdf, chosen, state, work.make_questioner(chosen, state))
    assert counts.status == "corrupt" and "cannot be drawn" in counts.detail
    assert (counts.kept, counts.rows_made, counts.pages) == (0, 0, {}) and not state.part(pdf.key).exists()


def test_a_pdf_that_kills_its_process_is_found_and_skipped(pdfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file can bring the reader down; here the process of one file is killed from outside."""
    chosen = settings(pdfs, jobs=2)
    state = State(chosen.out / ".work")
    for place in (state.parts, state.answers):
        place.mkdir(parents=True)
    found = find_pdfs(pdfs).pdfs
    monkeypatch.setattr(pool, "_build", build_or_die)
    counts = {c.name: c.status for c in pool.build_parts(found, chosen, state)}
    assert counts.pop("beta.pdf.gz") == pool.CRASHED
    assert set(counts) == {p.name for p in found} - {"beta.pdf.gz"}
    assert counts["alpha.pdf"] == counts["below/gamma.pdf"] == "read"


def test_a_file_name_that_is_not_utf8_is_built_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "pdfs"
    write_pdf(folder / "good.pdf", manual("Fine"))
    os.rename(write_pdf(folder / "x.pdf", manual("Latin")), os.fsencode(folder) + b"/caf\xe9.pdf")
    (folder / os.fsdecode(b"torn\xe9.pdf")).write_bytes(b"%PDF-1.4 torn")
    built = build(settings(folder))
    assert built.counts["pdfs"]["read"] == 2
    assert [s["pdf"] for s in built.counts["skipped"]] == ["torn\\xe9.pdf"]
    sources = {text["source"].partition("#")[0] for row in rows_of(tmp_path / "out") for text in row["texts"]}
    assert sources == {"good.pdf", "caf\\xe9.pdf"}


def test_text_that_no_picture_shows_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "pdfs"
    white = [Drawn("BT 1 g /F1 9 Tf 30 20 Td (nobody sees this) Tj ET")]
    write_pdf(folder / "a.pdf", [page("Some text."), white])
    with pytest.raises(DataError, match="2 pages, 1 of them without text, 1 with text that the picture does not show"):
        build(settings(folder))


def test_rows_with_the_same_text_are_written_once(tmp_path: Path) -> None:
    pages = manual("Alpha", 6)
    write_pdf(tmp_path / "pdfs" / "a.pdf", pages)
    write_pdf(tmp_path / "pdfs" / "b.pdf", [*pages[:4], *manual("Beta", 6)[4:]])
    counts = build(settings(tmp_path / "pdfs")).counts
    assert counts["rows"] == {"made": 4, "without pairs": 0, "same text as an earlier row": 1, "written": 3}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: None, "does not exist"),
        (lambda f: f.mkdir(), "no PDF in"),
        (lambda f: write_pdf(f / "a.pdf", manual("A", 2), locked=True), "no PDF could be read: 1 encrypted"),
        (lambda f: write_pdf(f / "a.pdf", [[], []]), "no question was generated for 2 pages, 2 of them without text"),
    ],
)
def test_nothing_to_build_from(tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path / "pdfs")
    with pytest.raises(DataError, match=message):
        build(settings(tmp_path / "pdfs"))


@pytest.mark.parametrize(("field", "value"), [("dpi", 0), ("pages_per_row", 0), ("styles", 6), ("support", 1.5)])
def test_settings_out_of_range(pdfs: Path, field: str, value: float) -> None:
    with pytest.raises(DataError, match="styles" if field == "styles" else field):
        build(settings(pdfs, **{field: value}))


def test_two_builds_in_one_folder(pdfs: Path) -> None:
    from vlm_ablate.docmatix.build import _alone

    chosen = settings(pdfs)
    (chosen.out / ".work").mkdir(parents=True)
    held = _alone(chosen.out / ".work" / "lock", chosen.out)
    with held, pytest.raises(DataError, match="another process is building"):
        build(chosen)


def test_a_folder_that_cannot_be_made(pdfs: Path) -> None:
    (pdfs.parent / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        build(settings(pdfs, out=pdfs.parent / "file" / "out"))
