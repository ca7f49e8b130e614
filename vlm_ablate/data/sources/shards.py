"""WebDataset shards: rows by number, rows as a stream, and rows that `datasets` made of shards on the hub.

Members that share a name up to its first dot form a row. JSON members are merged into it; pictures become `images` (by
natural order) and `image` (the first of them, or `x.jpg` beside `x.mask.png`) unless the JSON names them; `txt` becomes
`text`; the rest is kept as bytes by its ending.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vlm_ablate.data.sources.lines import Row, columns_of
from vlm_ablate.data.values import decoded
from vlm_ablate.errors import DataError
from vlm_ablate.limits import most_unpacked, parse_json, unpacks_to_more

_LOOKED_AT = 8
"""First rows whose members are the columns."""
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MADE_OF_SHARDS = {"__key__", "__url__"}
"""Columns that `datasets` adds to rows that it read from shards."""


def member_row(key: str, members: Mapping[str, Any], where: str, encoding: str = "utf-8") -> Row:
    """The row of some members: ending -> bytes, or what was already decoded.

    Raises:
        DataError: a member is not valid JSON, or a text not in `encoding`; the message names it and `where`.
    """
    row: Row = {"__key__": key, "__files__": {e: data for e, data in members.items() if isinstance(data, bytes)}}
    pictures = sorted((e for e in members if e.rsplit(".", 1)[-1].lower() in IMAGE_ENDINGS), key=_natural)
    if pictures:
        row["images"] = [{"bytes": members[e], "path": f"{key}.{e}"} for e in pictures]
        # `x.jpg` is the picture of row x, not the `x.depth.png` or `x.mask.png` beside it.
        row["image"] = row["images"][next((i for i, e in enumerate(pictures) if "." not in e), 0)]
    for ending, data in members.items():
        if ending == "txt":
            row["text"] = decoded(data, f"{key}.txt in {where}", encoding) if isinstance(data, bytes) else data
        elif ending not in pictures and not ending.endswith("json"):
            row[ending] = data
    for ending, data in members.items():
        if ending.endswith("json"):
            value = _parsed(data, f"{key}.{ending}", where) if isinstance(data, bytes) else data
            named = {k: v for k, v in value.items() if not k.startswith("__")} if isinstance(value, dict) else None
            row.update({"json": value} if named is None else named)
    return row


def unpacked(row: Row, encoding: str = "utf-8") -> Row:
    """A row of ending -> content, `__key__` and `__url__`, as `datasets` reads it from shards, made into a full row."""
    members = {
        ending: value["bytes"] if isinstance(value, dict) and set(value) == {"bytes", "path"} else value
        for ending, value in row.items()
        if ending not in MADE_OF_SHARDS and value is not None
    }
    return member_row(row["__key__"], members, row["__url__"], encoding)


class TarRows:
    """Rows of shards by number: an index of members is read once, rows are read where they lie.

    Raises:
        DataError: a shard is compressed or damaged.
    """

    sequential = False

    def __init__(self, files: list[Path], fingerprint: str, licence: str, encoding: str = "utf-8") -> None:
        self.fingerprint, self.licence, self._encoding = fingerprint, licence, encoding
        self._paths, self._open = files, dict[int, IO[bytes]]()
        self._index: list[tuple[int, str, list[tuple[str, int, int]]]] = []
        for number, path in enumerate(files):
            rows: dict[str, list[tuple[str, int, int]]] = {}
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in tar:
                        if member.isfile():
                            key, ending = _split_name(member.name)
                            rows.setdefault(key, []).append((ending, member.offset_data, member.size))
            except tarfile.TarError as error:
                raise DataError(
                    f"shard {path} is not a plain tar file: {error}", hint="decompress it, or set `streaming: true`"
                ) from error
            self._index += [(number, key, members) for key, members in rows.items()]
        self.columns = columns_of(self.__getitem__, min(len(self), _LOOKED_AT))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Row:
        number, key, members = self._index[index]
        if number not in self._open:
            self._open[number] = self._paths[number].open("rb")
        # pread keeps no position, so that forked loader processes may share the file.
        read = {e: os.pread(self._open[number].fileno(), size, at) for e, at, size in members}
        return member_row(key, read, str(self._paths[number]), self._encoding)


class TarStream:
    """Rows of shards from front to back, nothing indexed. Shards may be compressed; a row's members
    stand together.

    Raises:
        DataError: while iterating, a shard is damaged.
    """

    def __init__(self, files: list[Path], encoding: str = "utf-8", skipped: int = 0) -> None:
        self._paths, self._encoding, self._skipped = files, encoding, skipped

    def skip(self, rows: int) -> TarStream:
        """The stream without its first rows, whose contents are not read."""
        return TarStream(self._paths, self._encoding, self._skipped + rows)

    def unpacked(self, raw: Row) -> Row:
        """See `Stream`."""
        return unpacked(raw, self._encoding)

    def __iter__(self) -> Iterator[Row]:
        left = self._skipped
        for path in self._paths:
            try:
                with tarfile.open(path, "r:*") as tar:
                    for key, members in _groups(tar, str(path), most_unpacked(path.stat().st_size)):
                        if left:
                            left -= 1
                            continue
                        read = {ending: _content(tar, member) for ending, member in members}
                        yield {**read, "__key__": key, "__url__": str(path)}
            except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"shard {path} cannot be read: {error}") from error


def _groups(tar: tarfile.TarFile, name: str, limit: int) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo]]]]:
    """(key, [(ending, member)]) of neighbouring members with one key.

    Raises:
        DataError: the members hold more than `limit` bytes; `name` is that of the archive.
    """
    last, held = "", 0
    found: list[tuple[str, tarfile.TarInfo]] = []
    for member in tar:
        if not member.isfile():
            continue
        held += member.size
        if held > limit:
            raise unpacks_to_more(name, limit)
        key, ending = _split_name(member.name)
        if found and key != last:
            yield last, found
            found = []
            vars(tar)["members"] = []  # or the archive remembers every member it has passed
        last = key
        found.append((ending, member))
    if found:
        yield last, found


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""


def _parsed(data: bytes, name: str, where: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise DataError(f"{name} in {where} is not valid JSON: {error}") from error


def _split_name(name: str) -> tuple[str, str]:
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p]
