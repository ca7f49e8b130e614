"""The whole build: find, check, work through the PDFs, put the shards together, write counts and data card."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_ablate.docmatix.card import data_card
from vlm_ablate.docmatix.counts import PdfCounts, Totals, total
from vlm_ablate.docmatix.find import Found, find_pdfs
from vlm_ablate.docmatix.parquet import Written, write_shards
from vlm_ablate.docmatix.pool import build_parts
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.docmatix.work import HIDDEN, State, make_questioner
from vlm_ablate.errors import DataError
from vlm_ablate.limits import parse_json
from vlm_ablate.storage import storage_errors, write_atomically

OnPdf = Callable[[int, int, PdfCounts], None]
"""Called with (PDFs done, PDFs in all, the counts of the one that was finished or found finished)."""


@dataclass(frozen=True)
class Built:
    """What a build left."""

    counts: dict[str, Any]
    """The content of counts.json."""
    fresh: bool
    """False: it had been built before, and nothing was done."""


def build(settings: BuildSettings, on_pdf: OnPdf = lambda done, of, counts: None) -> Built:
    """Build the data set, or continue a build that was stopped.

    Raises:
        DataError: no PDFs, settings that contradict each other or those of an earlier build in the same folder, or
            no PDF that gave a pair.
        EndpointError: the endpoint cannot be used.
        AssetMissing: the local model is not on this machine.
        StorageError: the folder cannot be written.
    """
    settings.check()
    found = find_pdfs(settings.pdfs)
    found = Found(found.pdfs[: settings.max_pdfs], found.duplicates, found.unreadable)
    state = State(settings.out / ".work")
    with storage_errors("create", state.root):
        for folder in (state.answers, state.parts):
            folder.mkdir(parents=True, exist_ok=True)
    with _alone(state.root / "lock", settings.out):
        _same_settings(settings, state)
        print_of_build = _fingerprint(settings, found)
        done = _finished(settings.out, print_of_build)
        if done is not None:
            return Built(done, False)
        counts = _work(settings, found, state, on_pdf)
        return Built(_assemble(settings, found, state, counts, print_of_build), True)


def _work(settings: BuildSettings, found: Found, state: State, on_pdf: OnPdf) -> list[PdfCounts]:
    counts: dict[str, PdfCounts] = {}
    for pdf in found.pdfs:
        known = state.read_counts(pdf.key)
        if known is not None and (known.status != "read" or state.part(pdf.key).is_file()):
            counts[pdf.key] = known
            on_pdf(len(counts), len(found.pdfs), known)
    missing = [pdf for pdf in found.pdfs if pdf.key not in counts]
    if missing:
        make_questioner(settings, state).check()
        for one in build_parts(missing, settings, state):
            counts[one.key] = one
            on_pdf(len(counts), len(found.pdfs), one)
    return [counts[pdf.key] for pdf in found.pdfs]


def _assemble(
    settings: BuildSettings, found: Found, state: State, counts: list[PdfCounts], fingerprint: str
) -> dict[str, Any]:
    totals = total(counts)
    parts = [state.part(c.key) for c in counts if c.status == "read"]
    if not totals.kept:
        raise DataError(_nothing(totals))
    written = write_shards(settings.out / "data", parts, settings.rows_per_shard)
    body = _body(settings, found, totals, written, counts, fingerprint)
    write_atomically(settings.out / "README.md", data_card(settings, totals, written))
    # Last, because where it is the data set is whole.
    write_atomically(settings.out / "counts.json", json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    for part in parts:
        part.unlink()
    return body


def _body(
    settings: BuildSettings, found: Found, totals: Totals, written: Written, counts: list[PdfCounts], fingerprint: str
) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "settings": settings.identity,
        "pdfs": {"found": len(found.pdfs) + found.duplicates + found.unreadable,
                 "same content as another": found.duplicates, "cannot be opened": found.unreadable, **totals.pdfs},
        "pages": totals.pages,
        "pairs": {"generated": totals.generated, "dropped": totals.dropped,
                  "dropped share": round(totals.drop_share, 4), "kept": totals.kept, "kinds": totals.kinds,
                  "prompts refused": totals.prompts_refused},
        "rows": {"made": totals.rows_made, "without pairs": totals.rows_without_pairs,
                 "same text as an earlier row": written.duplicates, "written": written.rows},
        "written": {"rows": written.rows, "images": written.images, "pairs": written.pairs, "bytes": written.bytes,
                    "files": list(written.files)},
        "skipped": [{"pdf": c.name, "why": c.status, "detail": c.detail} for c in counts if c.status != "read"],
    }


def _nothing(totals: Totals) -> str:
    skipped = ", ".join(f"{n} {status}" for status, n in totals.pdfs.items() if status != "read")
    if not totals.pdfs.get("read"):
        return f"no PDF could be read: {skipped}"
    hidden = totals.pages.get(HIDDEN, 0)
    told = f", {hidden} {HIDDEN} (covered, invisible, or in a font that is not installed)" if hidden else ""
    if not totals.generated:
        silent = totals.pages.get("without text", 0)
        return f"no question was generated for {totals.pages.get('read', 0)} pages, {silent} of them without text{told}"
    dropped = ", ".join(f"{n} {reason}" for reason, n in totals.dropped.items())
    return f"all {totals.generated} pairs of {totals.pages.get('read', 0)} pages were dropped: {dropped}{told}"


def _fingerprint(settings: BuildSettings, found: Found) -> str:
    body = [settings.identity, settings.rows_per_shard, settings.licence, [(p.name, p.key) for p in found.pdfs]]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """counts.json of the same build, if all of its files are there."""
    try:
        body = parse_json((out / "counts.json").read_text())
        whole = all((out / "data" / name).is_file() for name in body["written"]["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return body if whole and body.get("fingerprint") == fingerprint else None


def _same_settings(settings: BuildSettings, state: State) -> None:
    path = state.root / "settings.json"
    try:
        before = parse_json(path.read_text())
    except (FileNotFoundError, ValueError):
        write_atomically(path, json.dumps(settings.identity, indent=1))
        return
    now = json.loads(json.dumps(settings.identity))
    changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    if changed:
        says = ", ".join(f"{k} {before.get(k)!r}, now {now.get(k)!r}" for k in changed)
        raise DataError(f"{settings.out} was begun with other settings: {says}",
                        hint="use the same settings, another --out, or delete the folder")


@contextmanager
def _alone(path: Path, out: Path) -> Iterator[None]:
    """Hold the folder; freed when the process ends, however it ends."""
    with storage_errors("lock", out):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is building {out}", hint="wait for it, or use another --out") from None
        yield
    finally:
        os.close(handle)
