"""Rows in Docmatix's schema as Parquet: one part a PDF, and the shards that the parts are put together to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_ablate.docmatix.pair import PageRow, Pair
from vlm_ablate.storage import atomic_file, storage_errors

_FEATURES = {
    "images": {"feature": {"_type": "Image"}, "_type": "List"},
    "texts": {"feature": {k: {"dtype": "string", "_type": "Value"} for k in ("user", "assistant", "source")},
              "_type": "List"},
}
SCHEMA = pa.schema(
    [
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("texts", pa.list_(pa.struct([(k, pa.string()) for k in ("user", "assistant", "source")]))),
    ],
    # What `datasets` reads to decode the pictures.
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
_PART_SCHEMA = SCHEMA.append(pa.field("text_hash", pa.string()))
_GROUP = 8
"""Rows of a row group: pictures make rows large."""


def record(row: PageRow, images: list[bytes], pairs: list[Pair], ending: str) -> dict[str, Any]:
    """One row: the pages' pictures, then the turns; `source` says which pages and what kind of question."""
    stem = row.pdf.replace("/", "_")
    paths = [f"{stem}-{page.number:04}.{ending}" for page in row.pages]
    return {
        "images": [{"bytes": data, "path": path} for data, path in zip(images, paths, strict=True)],
        "texts": [
            {"user": p.question, "assistant": p.answer, "source": f"{row.pdf}#{row.span} {p.kind}"} for p in pairs
        ],
        "text_hash": hashlib.sha256(row.text.encode()).hexdigest()[:16],
    }


def write_part(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write the rows of one PDF; returns their number. The file is there whole or not at all."""
    count = 0
    with atomic_file(path) as file, pq.ParquetWriter(file, _PART_SCHEMA, compression="none") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, _PART_SCHEMA))
            count += len(group)
    return count


@dataclass(frozen=True)
class Written:
    """The shards of a data set."""

    files: tuple[str, ...]
    rows: int
    images: int
    pairs: int
    duplicates: int
    """Rows left out because the same text occurred in an earlier PDF."""
    bytes: int


def write_shards(folder: Path, parts: Iterable[Path], rows_per_shard: int) -> Written:
    """Put parts together to `train-00000-of-0000N.parquet`, in their order; pages that occurred before are left out."""
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in [*folder.glob("train-*.parquet"), *folder.glob("shard-*.unfinished")]:
            old.unlink()
    tally = {"rows": 0, "images": 0, "pairs": 0, "duplicates": 0}
    unfinished: list[Path] = []
    rows = _unique(_read(parts), tally)
    for shard in _chunks(rows, rows_per_shard):
        path = folder / f"shard-{len(unfinished):05}.unfinished"
        with atomic_file(path) as file, pq.ParquetWriter(file, SCHEMA, compression="none") as writer:
            for group in _groups(shard):
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
        unfinished.append(path)
    names = [f"train-{i:05}-of-{len(unfinished):05}.parquet" for i in range(len(unfinished))]
    size = sum(path.stat().st_size for path in unfinished)
    with storage_errors("rename shards in", folder):
        for path, name in zip(unfinished, names, strict=True):
            path.rename(folder / name)
    return Written(tuple(names), tally["rows"], tally["images"], tally["pairs"], tally["duplicates"], size)


def _read(parts: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()


def _unique(rows: Iterable[dict[str, Any]], tally: dict[str, int]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for row in rows:
        name = row.pop("text_hash")
        if name in seen:
            tally["duplicates"] += 1
            continue
        seen.add(name)
        tally["rows"] += 1
        tally["images"] += len(row["images"])
        tally["pairs"] += len(row["texts"])
        yield row


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Consecutive runs of `size`; each must be read before the next is asked for."""
    from itertools import chain, islice

    for first in rows:
        yield chain([first], islice(rows, size - 1))
