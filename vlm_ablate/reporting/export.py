"""Everything that a finished experiment leaves for readers, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.figures import figure_paper, figure_seen
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.renderers import FORMATS, SUFFIXES, render
from vlm_ablate.storage import storage_errors
from vlm_ablate.tracking.record_file import dump_records
from vlm_ablate.tracking.records import History, RunRecord

FIGURE_FORMATS = ("png", "svg")


def write_results(
    report: Report,
    records: Sequence[RunRecord],
    folder: Path,
    histories: Mapping[str, History] | None = None,
) -> list[Path]:
    """Write the table in every format, the figures that the records allow, and the records that they came from.

    The same report and records give the same bytes. A figure that cannot be drawn any more is removed, so that the
    folder never shows what the records do not hold.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FORMATS:
        written.append(_write(folder / f"table.{SUFFIXES[name]}", render(report, name)))
    for format in FIGURE_FORMATS:
        drawn = {
            "figure_seen": partial(figure_seen, report, records, histories or {}, format),
            "figure_paper": partial(figure_paper, report, format),
        }
        for name, draw in drawn.items():
            path = folder / f"{name}.{format}"
            try:
                written.append(_write(path, draw()))
            except VlmAblateError as error:
                if type(error) is not VlmAblateError:
                    raise
                path.unlink(missing_ok=True)
    shown = [r for r in records if r.run_id in report.run_ids]
    dump_records(folder / "records.json", shown, {r.run_id: h for r in shown if (h := (histories or {}).get(r.run_id))})
    return [*written, folder / "records.json"]


def _write(path: Path, data: str | bytes) -> Path:
    with storage_errors("write", path):
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path
