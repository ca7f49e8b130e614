"""JSON records as they are written: lines by number, lines as a stream, arrays. No column is given a type.

Readers that make tables of JSON turn dates into timestamps, integers beside a gap into fractions, and values of mixed
types into JSON text. A record ends at "\\n" only: U+2028, U+0085 and the like are characters of a text.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import IO, Any

from vlm_ablate.errors import DataError
from vlm_ablate.limits import most_unpacked, parse_json, unpacks_to_more

Row = dict[str, Any]
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".ndjson")
_MARK = b"\xef\xbb\xbf"
"""Byte order mark, which some editors put before the first line."""
_LOOKED_AT = 100
"""First rows whose keys are the columns."""


def parsed_line(line: bytes, where: str, encoding: str = "utf-8") -> Row:
    """The record of one line.

    Raises:
        DataError: it is not a JSON object; the message names `where`.
    """
    try:
        row = parse_json(line.removeprefix(_MARK).decode(encoding))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not {encoding}: {error}", hint="set `encoding`") from error
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {error}", hint="write one record a line, or one array") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is {type(row).__name__}, not a JSON object")
    return row


def records(file: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """The records of a file of lines, or of one array, from front to back.

    Raises:
        DataError: the file or a record cannot be read.
    """
    for number, line in _lines(file):
        yield parsed_line(line, f"{file}:{number}", encoding)


class LineRows:
    """Rows by number. Where the lines begin is read once; a line is read and parsed when it is asked for.

    Raises:
        DataError: a file cannot be read.
    """

    sequential = False

    def __init__(self, files: list[Path], fingerprint: str, licence: str, encoding: str = "utf-8") -> None:
        self.fingerprint, self.licence = fingerprint, licence
        self._files, self._encoding, self._open = files, encoding, dict[int, IO[bytes]]()
        self._index: list[tuple[int, int, int, bytes | int]] = []
        for number, file in enumerate(files):
            self._index += [(number, *entry) for entry in _entries(file)]
        self.columns = columns_of(self.__getitem__, min(len(self), _LOOKED_AT))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Row:
        file, line, size, place = self._index[index]
        if isinstance(place, bytes):
            data = place
        else:
            if file not in self._open:
                self._open[file] = self._files[file].open("rb")
            # pread keeps no position, so that forked loader processes may share the file.
            data = os.pread(self._open[file].fileno(), size, place)
        return parsed_line(data, f"{self._files[file]}:{line}", self._encoding)


class LineStream:
    """Lines from front to back, nothing indexed.

    Raises:
        DataError: while iterating, a file cannot be read.
    """

    def __init__(self, files: list[Path], encoding: str = "utf-8", skipped: int = 0) -> None:
        self._files, self._encoding, self._skipped = files, encoding, skipped

    def skip(self, rows: int) -> LineStream:
        """See `Stream`."""
        return LineStream(self._files, self._encoding, self._skipped + rows)

    def __iter__(self) -> Iterator[Row]:
        numbered = ((file, number, line) for file in self._files for number, line in _lines(file))
        for file, number, line in islice(numbered, self._skipped, None):
            yield {"line": line, "where": f"{file}:{number}"}

    def unpacked(self, raw: Row) -> Row:
        """See `Stream`."""
        return parsed_line(raw["line"], raw["where"], self._encoding)


def columns_of(read: Callable[[int], Row], count: int) -> list[str]:
    """Keys of the first `count` rows in the order in which they occur, but the reader's own; damaged rows have none.

    Raises:
        DataError: no row can be read; it is that of the first.
    """
    found: dict[str, None] = {}
    broken: DataError | None = None
    for index in range(count):
        try:
            found |= dict.fromkeys(key for key in read(index) if not key.startswith("__"))
        except DataError as error:
            broken = broken or error
    if broken and not found:
        raise broken
    return list(found)


def _entries(file: Path) -> Iterator[tuple[int, int, bytes | int]]:
    """(line, size, offset) of each record; where a file cannot be read in place, (line, size, the record itself)."""
    if file.suffix == ".gz" or _is_array(file):
        yield from ((number, len(line), line) for number, line in _lines(file))
        return
    at = 0
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, len(line), at
            at += len(line)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of a file's lines that are not blank, or of the entries of its array."""
    if _is_array(file):
        try:
            entries = parse_json(file.read_bytes())
        except ValueError as error:
            raise DataError(f"{file} is not valid JSON: {error}") from error
        yield from ((number, json.dumps(entry).encode()) for number, entry in enumerate(entries, 1))
        return
    with _opened(file) as stream:
        try:
            lines = _bounded(stream, file) if file.suffix == ".gz" else stream
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} cannot be read: {error}") from error


def _bounded(stream: gzip.GzipFile | BufferedReader, file: Path) -> Iterator[bytes]:
    """The lines of a compressed file, until it has given more than such a file can hold."""
    limit = left = most_unpacked(file.stat().st_size)
    while line := stream.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise unpacks_to_more(str(file), limit)
        yield line


def _is_array(file: Path) -> bool:
    """Whether the file is one JSON array."""
    if file.suffix == ".gz":
        return False
    with _opened(file) as stream:
        return stream.read(4096).removeprefix(_MARK).lstrip().startswith(b"[")


def _opened(file: Path) -> gzip.GzipFile | BufferedReader:
    try:
        return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
