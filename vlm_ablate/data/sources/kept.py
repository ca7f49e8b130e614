"""The first rows of a hub stream, kept on this machine, so that workers without a network read the same rows.

`vlm-ablate prefetch` writes them beside the hub's own cache of data sets; whoever opens the stream finds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from vlm_ablate.data.sources.configs import RecordsConfig
from vlm_ablate.errors import DataError
from vlm_ablate.storage import atomic_path, storage_errors

_BATCH = 64
"""Rows that are written together."""


def kept_file(config: RecordsConfig) -> Path:
    """Where the first rows of a stream are kept, there or not."""
    import datasets.config

    asked = [config.id, config.subset or config.hub_subset, config.revision, config.split]
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "vlm_ablate-streams"
    return folder / f"{config.id.replace('/', '--')}-{name}" / f"{config.rows or 0}.parquet"


def find_kept(config: RecordsConfig) -> Path | None:
    """A file with as many rows of the stream as are asked for, or more; None: there is none."""
    if config.rows is None:
        return None
    files = sorted(kept_file(config).parent.glob("*.parquet"), key=lambda file: _rows(file))
    return next((file for file in files if _rows(file) >= config.rows), None)


def _rows(file: Path) -> int:
    return int(file.stem) if file.stem.isdecimal() else 0


def keep(config: RecordsConfig, stream: Any, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the first `rows` rows of a stream, as they are (pictures not decoded), and give the file.

    Args:
        stream: a `datasets.IterableDataset`.
        progress: called with (rows, rows wanted).

    Raises:
        DataError: `rows` is not said, or the stream ends before.
        StorageError: it cannot be written; nothing half written stays.
    """
    import pyarrow.parquet as parquet

    if config.rows is None:
        raise DataError(f"the stream {config.id!r} has no end that is known", hint="set `rows`")
    file, count = kept_file(config), 0
    with storage_errors("write", file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as part, ExitStack() as opened:
        writer: parquet.ParquetWriter | None = None
        for table in _tables(stream, config.rows):
            if writer is None:
                writer = opened.enter_context(parquet.ParquetWriter(part, table.schema))
            writer.write_table(table)
            count += len(table)
            if progress is not None:
                progress(count, config.rows)
        if count < config.rows:
            raise DataError(f"the stream {config.id!r} ended after {count} rows", hint=f"set `rows` to {count}")
    return file


def _tables(stream: Any, rows: int) -> Iterator[Any]:
    import datasets

    source, features = iter(stream.decode(False)), stream.features
    while batch := list(islice(source, min(_BATCH, rows))):
        rows -= len(batch)
        table = datasets.Dataset.from_list(batch, features=features)
        yield table.data.table.combine_chunks()
        if rows <= 0:
            return
