"""Rows of records as plain dicts, wherever they are: Parquet, JSON lines, tar shards, a saved data set, the hub.

Images are never decoded here: a cell is `{"bytes", "path"}`, bytes, or a path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, Protocol

from vlm_ablate.data.mixture import STREAM_WINDOW
from vlm_ablate.data.sources.configs import RecordsConfig
from vlm_ablate.data.sources.shards import MADE_OF_SHARDS, Row, TarRows, TarStream, unpacked
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.hub import DOWNLOAD_HINT, hub_allowed, offline_unless_allowed

__all__ = ["Row", "Rows", "open_rows"]

_ENDINGS = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".json", ".jsonl.gz", ".ndjson"),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}


class Rows(Protocol):
    """Numbered rows."""

    columns: list[str]
    sequential: bool
    fingerprint: str
    licence: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


def open_rows(config: RecordsConfig) -> Rows:
    """What `config.id` holds.

    Raises:
        DataError: it cannot be read, or its format cannot be told.
        AssetMissing: a hub id that is not on this machine.
    """
    local = _local(config)
    if config.format == "hub" or not local:
        if config.format not in ("auto", "hub") or _looks_like_path(config.id):
            raise DataError(f"{config.id!r} does not exist", hint="give an existing file, folder or glob, or a hub id")
        return _open_hub(config)
    if config.format == "saved" or (len(local) == 1 and (local[0] / "dataset_info.json").is_file()):
        return _open_saved(config, local[0])
    kind, files = _files(config, local)
    if kind == "webdataset":
        mark, licence = _files_fingerprint(files), _local_licence(files[0].parent)
        if config.streaming:
            return StreamRows(TarStream(files), config, mark, licence)
        return TarRows(files, mark, licence)
    return _open_tables(config, kind, files)


def _looks_like_path(id: str) -> bool:
    return id.startswith(("/", ".", "~")) or id.count("/") > 1 or any(c in id for c in "*?[")


def _local(config: RecordsConfig) -> list[Path]:
    path = Path(config.id).expanduser()
    if config.subset and (path / config.subset).is_dir():
        path = path / config.subset
    if path.exists():
        return [path]
    return [Path(p) for p in sorted(glob(str(path), recursive=True))]


def _files(config: RecordsConfig, roots: list[Path]) -> tuple[str, list[Path]]:
    """(format, files of the split)."""
    found = [f for root in roots for f in (sorted(root.rglob("*")) if root.is_dir() else [root]) if f.is_file()]
    kinds = list(_ENDINGS) if config.format == "auto" else [config.format]
    for kind in kinds:
        files = [f for f in found if f.name.endswith(_ENDINGS[kind])]
        if files:
            below = {f: _below(f, roots) for f in files}
            in_folder = [f for f in files if any(p.startswith(config.split) for p in below[f][:-1])]
            return kind, in_folder or [f for f in files if f.name.startswith(config.split)] or files
    endings = sorted({f.suffix for f in found}) or ["nothing"]
    raise DataError(
        f"{config.id!r} holds no {' or '.join(kinds)} files; found: {', '.join(endings)}",
        hint="set `format`, or point `id` at Parquet, JSON lines or tar files",
    )


def _below(file: Path, roots: list[Path]) -> tuple[str, ...]:
    for root in roots:
        if root.is_dir() and file.is_relative_to(root):
            return file.relative_to(root).parts
    return (file.name,)


def _open_tables(config: RecordsConfig, kind: str, files: list[Path]) -> Rows:
    import datasets

    builder = {"parquet": "parquet", "jsonl": "json"}[kind]
    try:
        with _quiet():
            data = datasets.load_dataset(
                builder, data_files=[str(f) for f in files], split="train", streaming=config.streaming
            )
    except Exception as error:  # readers raise errors of pyarrow, pandas and their own
        if found_nothing(error):
            raise DataError(f"{config.id!r} is empty: its {kind} files hold no row") from error
        raise DataError(f"{config.id!r} cannot be read as {kind}: {first_reason(error)}") from error
    mark, licence = _files_fingerprint(files), _local_licence(files[0].parent)
    return _stream(data, config, mark, licence) if config.streaming else ArrowRows(data, mark, licence)


def _open_saved(config: RecordsConfig, folder: Path) -> Rows:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{config.id!r} is not a saved data set: {first_reason(error)}") from error
    if isinstance(data, datasets.DatasetDict):
        if config.split not in data:
            raise DataError(f"{config.id!r} has no split {config.split!r}; it has {', '.join(data)}")
        data = data[config.split]
    return ArrowRows(data, data._fingerprint, data.info.license or _local_licence(folder))


def _open_hub(config: RecordsConfig) -> Rows:
    import datasets

    try:
        with _quiet(), offline_unless_allowed():
            data = datasets.load_dataset(
                config.id,
                config.subset or config.hub_subset,
                split=config.split,
                revision=config.revision,
                streaming=config.streaming,
            )
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise AssetMissing(
            f"data set {config.id!r} is not on this machine" + (f": {first_reason(error)}" if hub_allowed() else ""),
            hint=DOWNLOAD_HINT,
        ) from error
    except Exception as error:
        raise DataError(f"data set {config.id!r} cannot be read: {first_reason(error)}") from error
    mark = f"{config.id}@{config.revision or ''}/{config.split}"
    licence = data.info.license or "unknown"
    if config.streaming:
        return _stream(data, config, mark, licence)
    return ArrowRows(data, f"{mark}/{data._fingerprint}", licence)


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    shown = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def found_nothing(error: BaseException) -> bool:
    """Whether a reader failed because there is nothing to read."""
    # A file without a byte, a split without a shard, a Parquet file without a row group: datasets has no error for it.
    marks = ("corresponds to no data", "BatchSize must be greater than 0, got 0")
    return isinstance(error.__cause__ or error, StopIteration) or any(m in first_reason(error) for m in marks)


def first_reason(error: BaseException) -> str:
    """First line of what made a reader fail."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def _files_fingerprint(files: list[Path]) -> str:
    """Names, sizes and both ends of the files: cheap, and different when a shard was rewritten."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 16))
            stream.seek(max(0, size - (1 << 16)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _local_licence(folder: Path) -> str:
    """`license:` of a data card beside the files, or "unknown"."""
    for place in (folder, folder.parent):
        card = place / "README.md"
        if card.is_file():
            found = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE)
            if found:
                return found[1]
    return "unknown"


class ArrowRows:
    """Rows of a memory-mapped table."""

    sequential = False

    def __init__(self, data: Any, fingerprint: str, licence: str) -> None:
        self.fingerprint, self.licence = fingerprint, licence
        self._table = data.with_format("arrow")
        self._of_shards = set(data.column_names) >= MADE_OF_SHARDS
        self.columns = list(self[0]) if self._of_shards and len(data) else data.column_names

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        row = self._table[index].to_pylist()[0]
        return unpacked(row) if self._of_shards else row


class _Stream(Protocol):
    def skip(self, rows: int) -> Iterable[Row]: ...

    def __iter__(self) -> Iterator[Row]: ...


def _stream(data: Any, config: RecordsConfig, fingerprint: str, licence: str) -> StreamRows:
    splits = data.info.splits or {}
    known = splits[config.split].num_examples if config.split in splits else None
    return StreamRows(_WholeStream(data.decode(False)), config, fingerprint, licence, known)


class _WholeStream:
    """All rows of an `IterableDataset`, in a loader process too: iterated itself, it deals its shards out to them."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def skip(self, rows: int) -> _WholeStream:
        return _WholeStream(self._data.skip(rows))

    def __iter__(self) -> Iterator[Row]:
        import fsspec.asyn

        fsspec.asyn.reset_lock()  # or hub files hang in a forked process
        for batch in self._data.iter(batch_size=1):
            yield {column: values[0] for column, values in batch.items()}


class StreamRows:
    """Rows of a stream, cheap in rising order: the last two windows are kept, going further back starts again."""

    sequential = True

    def __init__(
        self, data: _Stream, config: RecordsConfig, fingerprint: str, licence: str, known: int | None = None
    ) -> None:
        self.fingerprint, self.licence, self._id = fingerprint, licence, config.id
        self._data, self._length = data, config.rows or known
        if not self._length:
            raise DataError(f"the length of the stream {config.id!r} is not known", hint="set `rows`")
        self._restart(0)
        self.columns = [c for c in self[0] if not c.startswith("__")]

    def _restart(self, at: int) -> None:
        self._stream, self._next, self._kept, self._reader = None, at, {}, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_next": 0, "_kept": {}}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        if index not in self._kept:
            self._read(index)
        row = self._kept[index]
        return unpacked(row) if row.keys() >= MADE_OF_SHARDS else row

    def _read(self, index: int) -> None:
        forked = self._reader != os.getpid()  # then an open file would share its position with other processes
        if forked or index < self._next or index > self._next + STREAM_WINDOW:
            self._restart(max(0, index - index % STREAM_WINDOW))
        if self._stream is None:
            self._stream = iter(self._data.skip(self._next) if self._next else self._data)
        while self._next <= index:
            try:
                self._kept[self._next] = next(self._stream)
            except StopIteration:
                raise DataError(f"the stream {self._id!r} ended after {self._next} rows; set `rows` to that") from None
            self._next += 1
        oldest = (index // STREAM_WINDOW - 1) * STREAM_WINDOW
        for old in [i for i in self._kept if i < oldest] if len(self._kept) > 2 * STREAM_WINDOW else []:
            del self._kept[old]
