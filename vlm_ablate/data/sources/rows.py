"""Rows of records as plain dicts, wherever they are: Parquet, JSON lines, tar shards, a saved data set, the hub.

Images are never decoded here: a cell is `{"bytes", "path"}`, bytes, or a path.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, Protocol

from vlm_ablate.data.sources.configs import RecordsConfig
from vlm_ablate.data.sources.files import files_of, local_roots, of_split, records_files
from vlm_ablate.data.sources.kept import find_kept
from vlm_ablate.data.sources.lines import LineRows, LineStream, Row
from vlm_ablate.data.sources.shards import MADE_OF_SHARDS, TarRows, TarStream, unpacked
from vlm_ablate.data.sources.streams import Stream, StreamRows, WholeStream, first_reason
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.hub import DOWNLOAD_HINT, hub_allowed, is_path, offline_unless_allowed, surely_absent
from vlm_ablate.limits import parse_json

__all__ = ["Row", "Rows", "first_reason", "found_nothing", "load_hub", "open_rows"]


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
    local = local_roots(config.id, config.subset)
    if config.format == "hub" or not local:
        if config.format not in ("auto", "hub") or is_path(config.id) or set("*?[") & set(config.id):
            raise DataError(f"{config.id!r} does not exist", hint="give an existing file, folder or glob, or a hub id")
        return _open_hub(config)
    if config.format == "saved" or (len(local) == 1 and (local[0] / "dataset_info.json").is_file()):
        return _open_saved(config, local[0])
    kind, files = records_files(files_of(local), config.format, repr(config.id))
    files = of_split(files, local, config.split, repr(config.id))
    mark, licence = _files_fingerprint(files), _local_licence(files[0].parent)
    if kind == "parquet":
        return _open_parquet(config, files, mark, licence)
    if config.streaming:
        stream = TarStream if kind == "webdataset" else LineStream
        return _stream(stream(files, config.encoding), config, mark, licence)
    rows = (TarRows if kind == "webdataset" else LineRows)(files, mark, licence, config.encoding)
    if not len(rows):
        raise DataError(f"{config.id!r} is empty: its {kind} files hold no row")
    return rows


def _open_parquet(config: RecordsConfig, files: list[Path], mark: str, licence: str) -> Rows:
    import datasets

    try:
        with _quiet():
            data = datasets.load_dataset(
                "parquet", data_files=[escape(str(f)) for f in files], split="train", streaming=config.streaming
            )
    except Exception as error:  # readers raise errors of pyarrow, pandas and their own
        if found_nothing(error):
            raise DataError(f"{config.id!r} is empty: its parquet files hold no row") from error
        raise DataError(f"{config.id!r} cannot be read as parquet: {first_reason(error)}") from error
    return _table_stream(data, config, mark, licence) if config.streaming else ArrowRows(data, mark, licence)


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
    mark = f"{config.id}@{config.revision or ''}/{config.split}"
    kept = find_kept(config) if config.streaming else None
    if kept is not None:
        here = config.model_copy(update={"id": str(kept)})
        return _open_parquet(here, [kept], mark, _local_licence(kept.parent))
    if surely_absent(config.id):
        raise AssetMissing(f"data set {config.id!r} is not on this machine", hint=DOWNLOAD_HINT)
    data = load_hub(config)
    licence = data.info.license or "unknown"
    if config.streaming:
        return _table_stream(data, config, mark, licence)
    return ArrowRows(data, f"{mark}/{data._fingerprint}", licence)


def load_hub(config: RecordsConfig) -> Any:
    """The data set of a hub id, as `datasets` gives it: streaming or not.

    Raises:
        AssetMissing: it is not on this machine, and downloads are not allowed or fail.
        DataError: it cannot be read.
    """
    import datasets

    try:
        with _quiet(), offline_unless_allowed():
            subset = config.subset or config.hub_subset
            whole = subset is None and config.hub_whole
            names = datasets.get_dataset_config_names(config.id, revision=config.revision) if whole else [subset]
            parts = [
                datasets.load_dataset(
                    config.id, name, split=config.split, revision=config.revision, streaming=config.streaming
                )
                for name in names
            ]
            return parts[0] if len(parts) == 1 else _mixed(parts, config)
    except DataError:
        raise
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise AssetMissing(
            f"data set {config.id!r} is not on this machine" + (f": {first_reason(error)}" if hub_allowed() else ""),
            hint=DOWNLOAD_HINT,
        ) from error
    except Exception as error:
        if subsets := re.search(r"available configs: \[(.*?)\]", str(error)):
            named = f"data set {config.id!r} has several subsets: {subsets[1]}"
            raise DataError(named, hint="name one as `subset`") from error
        raise DataError(f"data set {config.id!r} cannot be read: {first_reason(error)}") from error


def _mixed(parts: list[Any], config: RecordsConfig) -> Any:
    """All subsets as one data set: one behind the other, or where rows come in a stream, mixed by their sizes.

    Raises:
        DataError: a stream's subsets do not tell their sizes.
    """
    import datasets

    if not config.streaming:
        return datasets.concatenate_datasets(parts)
    splits = [(part.info.splits or {}).get(config.split) for part in parts]
    sizes = [split.num_examples if split else 0 for split in splits]
    if not all(sizes):
        raise DataError(f"data set {config.id!r} does not tell how large its subsets are", hint="name one as `subset`")
    info = parts[0].info.copy()
    info.splits = datasets.SplitDict()
    info.splits.add(datasets.SplitInfo(config.split, num_examples=sum(sizes)))
    shares = [size / sum(sizes) for size in sizes]
    return datasets.interleave_datasets(
        parts, shares, seed=0, info=info, stopping_strategy="all_exhausted_without_replacement"
    )


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
        self._unpacked = _Unpacked(data.features, data.column_names)
        of_shards = set(data.column_names) >= MADE_OF_SHARDS
        self.columns = list(self[0]) if of_shards and len(data) else data.column_names

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        return self._unpacked(self._table[index].to_pylist()[0])


class _Unpacked:
    """Makes a table's row a full one: what is stored as JSON text becomes its value, shards' members are merged."""

    def __init__(self, features: Any, columns: list[str] | None) -> None:
        self._of_shards = set(columns or ()) >= MADE_OF_SHARDS
        self._json = {name: f for name, f in (features or {}).items() if _holds_json(f)}

    def __call__(self, row: Row) -> Row:
        if self._json:
            row = {k: _from_json(v, self._json[k]) if k in self._json else v for k, v in row.items()}
        return unpacked(row) if self._of_shards or row.keys() >= MADE_OF_SHARDS else row


def _holds_json(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return any(map(_holds_json, feature.values()))
    inner = getattr(feature, "feature", None)
    return type(feature).__name__ == "Json" or (inner is not None and _holds_json(inner))


def _from_json(value: Any, feature: Any) -> Any:
    """A value as its writer gave it; `datasets` stores columns of mixed types as JSON text."""
    if value is None:
        return None
    if isinstance(feature, Mapping):
        return {key: _from_json(entry, feature.get(key)) for key, entry in value.items()}
    if type(feature).__name__ == "Json":
        return parse_json(value) if isinstance(value, str) else value
    inner = getattr(feature, "feature", None)
    return [_from_json(entry, inner) for entry in value] if isinstance(value, list) and inner is not None else value


def _table_stream(data: Any, config: RecordsConfig, fingerprint: str, licence: str) -> StreamRows:
    splits = data.info.splits or {}
    known = splits[config.split].num_examples if config.split in splits else None
    stream = WholeStream(data.decode(False), _Unpacked(data.features, data.column_names), config.id)
    return _stream(stream, config, fingerprint, licence, known)


def _stream(
    data: Stream, config: RecordsConfig, fingerprint: str, licence: str, known: int | None = None
) -> StreamRows:
    length = config.rows or known
    if not length:
        raise DataError(f"the length of the stream {config.id!r} is not known", hint="set `rows`")
    return StreamRows(
        data, length=length, window_bytes=config.window_bytes, name=config.id, fingerprint=fingerprint, licence=licence
    )
