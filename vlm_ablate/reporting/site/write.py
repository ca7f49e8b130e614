"""The files of a report, in a folder that holds nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_ablate.errors import StorageError
from vlm_ablate.limits import parse_json
from vlm_ablate.reporting.renderers import render
from vlm_ablate.reporting.site.entry import Entry
from vlm_ablate.reporting.site.index import index_page
from vlm_ablate.reporting.site.tables import table_page
from vlm_ablate.storage import storage_errors, write_atomically

LIST = "report.json"
"""Names the files of a report: by it a folder is known as one, and what a later report leaves out is removed."""


def check_folder(folder: Path) -> list[str]:
    """The files of the report that is there; none for a folder that is empty or missing.

    Raises:
        StorageError: the folder holds something else.
    """
    if folder.is_file():
        raise StorageError(f"{folder} is a file; a report needs a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    try:
        files = parse_json((folder / LIST).read_text())["files"]
        return [str(name) for name in files if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder} is not empty and holds no report", hint="name an empty folder, or that of an earlier report"
        ) from error


def write_site(
    entries: Sequence[Entry], not_run: Sequence[Entry], folder: Path, told: Callable[[str], object] = lambda _: None
) -> list[Path]:
    """Write one page over all, and one page, CSV and LaTeX for each entry; remove what an earlier report had besides.

    Args:
        told: is given the name of each table when it is begun.

    Raises:
        StorageError: the folder holds something else, or cannot be written.
    """
    earlier = check_folder(folder)
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    # First, so that a report that was interrupted is still known as one.
    _list(folder, {*earlier, *(name for entry in entries for name in _names(entry))})
    written: list[Path] = []
    for entry in entries:
        told(entry.experiment)
        written += _write_entry(entry, folder)
    written.append(_write(folder / "index.html", index_page(entries, not_run)))
    for name in {*earlier} - {path.name for path in written} - {LIST}:
        (folder / name).unlink(missing_ok=True)
    _list(folder, {path.name for path in written})
    return written


def _names(entry: Entry) -> list[str]:
    return [f"{entry.stem}.{suffix}" for suffix in ("html", "csv", "tex", "webp")] + ["index.html"]


def _list(folder: Path, names: set[str]) -> None:
    write_atomically(folder / LIST, json.dumps({"files": sorted(names)}, indent=1) + "\n")


def _write_entry(entry: Entry, folder: Path) -> list[Path]:
    written, picture = [], _examples(entry)
    if picture is not None:
        written.append(_write(folder / f"{entry.stem}.webp", picture))
    if entry.report is not None:
        for name, suffix in (("csv", "csv"), ("latex", "tex")):
            written.append(_write(folder / f"{entry.stem}.{suffix}", render(entry.report, name)))
    page = table_page(entry, f"{entry.stem}.webp" if picture is not None else None)
    return [*written, _write(folder / f"{entry.stem}.html", page)]


def _examples(entry: Entry) -> bytes | None:
    """The sample's panel of pictures, made small; None where there is none that can be read."""
    from PIL import Image, UnidentifiedImageError

    run = entry.sample
    path = entry.examples.get(run.run_id) if run else None
    if path is None or not path.is_file():
        return None
    out = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(out, "webp", quality=72, method=4)
    except (OSError, UnidentifiedImageError):
        return None
    return out.getvalue()


def _write(path: Path, data: str | bytes) -> Path:
    write_atomically(path, data)
    return path
