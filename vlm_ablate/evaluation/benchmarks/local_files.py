"""Where the local copy of a benchmark has its splits, in the layouts in which such copies are downloaded.

For a split S, below the folder or below its subset's: `S.parquet`, `S-*.parquet`, `data/S-*.parquet`, `S/*.parquet`,
`S.jsonl`, `S.json`, `S/metadata.jsonl`. A benchmark of one split may be in files that name no split (`mmstar.parquet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.data.sources.files import SPLIT_NAMES, listing
from vlm_ablate.data.sources.lines import records
from vlm_ablate.data.values import cells_of
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.configs import HubBenchmarkConfig
from vlm_ablate.home import files_below

if TYPE_CHECKING:
    from datasets import Dataset

_LAYOUTS = {
    "parquet": ("{}.parquet", "{}-*.parquet", "data/{}-*.parquet", "{}/*.parquet"),
    "json": ("{}.jsonl", "{}.json", "{}/metadata.jsonl"),
}
_ANY = {"parquet": ("*.parquet", "data/*.parquet"), "json": ("*.jsonl", "*.json")}


def split_files(config: HubBenchmarkConfig, split: str) -> tuple[str, list[Path]]:
    """("parquet" or "json", files of a split).

    Raises:
        DataError: there are none; the message lists what was found.
    """
    folder = Path(config.id).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="give the folder that holds the splits")
    roots = [folder / config.subset] if config.subset and (folder / config.subset).is_dir() else []
    for root in (*roots, folder):
        for kind, layouts in _LAYOUTS.items():
            for layout in layouts:
                if files := sorted(root.glob(layout.format(split))):
                    return kind, files
    if len(set(config.splits.values())) == 1:
        for root in (*roots, folder):
            for kind, patterns in _ANY.items():
                files = sorted(file for pattern in patterns for file in root.glob(pattern))
                if files and not any(file.name.startswith(SPLIT_NAMES) for file in files):
                    return kind, files
    raise DataError(
        f"{folder} has no split {split!r}; found: {listing(files_below(folder))}",
        hint="`splits: {report: NAME}` names the files NAME.parquet, NAME-*.parquet or NAME.jsonl; `subset` a folder",
    )


def json_table(files: Sequence[Path], image_columns: Sequence[str], folder: Path) -> Dataset:
    """Records of JSON lines or arrays as a table whose values are those of the files.

    Paths of images, which are written as seen from their file, become relative to `folder`.

    Raises:
        DataError: a file cannot be read, or has no record.
    """
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for file in files:
        beside = file.parent.relative_to(folder)
        for row in records(file):
            placed = {column: _placed(row[column], beside) for column in image_columns if column in row}
            rows.append(row | placed)
    if not rows:
        raise DataError(f"{files[0]} holds no record")
    columns = dict.fromkeys(column for row in rows for column in row)
    return Dataset.from_dict({c: [row.get(c) for row in rows] for c in columns}, on_mixed_types="use_json")


def _placed(cell: Any, beside: Path) -> Any:
    if isinstance(cell, list):
        return [_placed(entry, beside) for entry in cells_of(cell)]
    return str(beside / cell) if isinstance(cell, str) else cell
