"""Rows of a stream by number, cheap in rising order, within a bound on the bytes that are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from vlm_ablate.data.sources.base import STREAM_WINDOW
from vlm_ablate.data.sources.lines import Row, columns_of
from vlm_ablate.errors import DataError

_MEASURED = 64
"""First rows whose mean size says how many make a window."""
_LOOKED_AT = 8
"""First rows whose keys are the columns."""
_SLACK = 4
"""Windows' worth of bytes that are kept at most, where later rows are larger than the first."""


class Stream(Protocol):
    """Raw rows from front to back, again from the front with every iteration."""

    def skip(self, rows: int) -> Stream:
        """The stream without its first rows."""
        ...

    def __iter__(self) -> Iterator[Row]: ...

    def unpacked(self, raw: Row) -> Row:
        """A raw row as a full one. Raises DataError if it is damaged; the stream goes on."""
        ...


class WholeStream:
    """All rows of an `IterableDataset`, in a loader process too: iterated itself, it deals its shards out to them.

    Raises:
        DataError: while iterating, a file is damaged or cannot be reached.
    """

    def __init__(self, data: Any, unpacked: Callable[[Row], Row], name: str) -> None:
        self._data, self.unpacked, self._name = data, unpacked, name

    def skip(self, rows: int) -> WholeStream:
        """See `Stream`."""
        return WholeStream(self._data.skip(rows), self.unpacked, self._name)

    def __iter__(self) -> Iterator[Row]:
        import fsspec.asyn

        fsspec.asyn.reset_lock()  # or hub files hang in a forked process
        try:
            for batch in self._data.iter(batch_size=1):
                yield {column: values[0] for column, values in batch.items()}
        except Exception as error:  # readers raise errors of pyarrow, of the network and their own
            raise DataError(f"the stream {self._name!r} cannot be read: {first_reason(error)}") from error


class StreamRows:
    """Rows of a stream: the last two windows are kept, going further back starts again.

    A window has as many rows as `window_bytes` holds of the mean of the first ones, at most 1,024. Where later rows are
    so much larger that four windows' worth of bytes would be exceeded, the oldest are read again instead of kept.

    Args:
        length: rows to read.
        name: what errors call the stream.

    Raises:
        DataError: the stream is empty.
    """

    sequential = True

    def __init__(
        self, data: Stream, *, length: int, window_bytes: int, name: str, fingerprint: str, licence: str
    ) -> None:
        self.fingerprint, self.licence, self._name = fingerprint, licence, name
        self._data, self._length, self._limit = data, length, _SLACK * window_bytes
        self.window = self._measured(window_bytes)
        self._restart(0)
        self.columns = columns_of(self.__getitem__, min(length, self.window, _LOOKED_AT))

    def _measured(self, window_bytes: int) -> int:
        """Rows of a window."""
        rows = size = 0
        for row in islice(self._data, min(self._length, _MEASURED)):
            rows, size = rows + 1, size + weight(row)
            if size >= window_bytes:
                break
        return max(1, min(STREAM_WINDOW, window_bytes * rows // max(size, 1)))

    def _restart(self, at: int) -> None:
        self._stream: Iterator[Row] | None = None
        self._broken: DataError | None = None
        self._kept: dict[int, Row] = {}
        self._next, self._bytes, self._reader = at, 0, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_broken": None, "_next": 0, "_bytes": 0, "_kept": {}}

    def __len__(self) -> int:
        return self._length

    @property
    def kept_bytes(self) -> int:
        """Bytes of the rows that are kept now."""
        return self._bytes

    def __getitem__(self, index: int) -> Row:
        if index not in self._kept:
            self._read(index)
        return self._data.unpacked(self._kept[index])

    def _read(self, index: int) -> None:
        forked = self._reader != os.getpid()  # then an open file would share its position with other processes
        if forked or index < self._next or index > self._next + self.window:
            self._restart(max(0, index - index % self.window))
        if self._stream is None:
            self._stream = iter(self._data.skip(self._next) if self._next else self._data)
        while self._next <= index:
            if self._broken is not None:  # what failed once has no next row, but did not end there
                raise DataError(self._broken.message, hint=self._broken.hint)
            try:
                row = next(self._stream)
            except StopIteration:
                message = f"the stream {self._name!r} ended after {self._next} rows; set `rows` to that"
                raise DataError(message) from None
            except DataError as error:
                self._broken = error
                raise
            self._keep(self._next, row)
            self._next += 1

    def _keep(self, index: int, row: Row) -> None:
        self._kept[index] = row
        self._bytes += weight(row)
        oldest = (index // self.window - 1) * self.window
        for old in list(self._kept):  # in rising order
            if old == index or (old >= oldest and self._bytes <= self._limit):
                return
            self._bytes -= weight(self._kept.pop(old))


def first_reason(error: BaseException) -> str:
    """First line of what made a reader fail."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def weight(value: object) -> int:
    """Bytes of the texts and blobs in a row."""
    if isinstance(value, Mapping):
        return sum(weight(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(weight(entry) for entry in value)
    return len(value) if isinstance(value, bytes | str) else 8
