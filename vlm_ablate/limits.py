"""Bounds on what comes from strangers: how much an archive unpacks to, how deep JSON is nested. No torch here."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic_core import from_json

from vlm_ablate.errors import DataError

MOST_RATIO = 100
"""Bytes that a compressed byte may become; documents and drawings reach 20."""
ALWAYS_ALLOWED = 64 * 2**20
"""Bytes that anything may unpack to."""


class Readable(Protocol):
    """What gives bytes in order."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


def most_unpacked(packed: int) -> int:
    """Bytes that an archive of `packed` bytes may hold."""
    return max(ALWAYS_ALLOWED, MOST_RATIO * packed)


def unpacks_to_more(name: str, limit: int) -> DataError:
    """The error of an archive that holds more than a limit, in bytes."""
    return DataError(f"{name} unpacks to more than {limit / 2**20:,.0f} MiB",
                     hint="that is no archive of documents or pictures; take it from another place")


class Bounded:
    """A stream that refuses to give more than a limit.

    Args:
        stream: read from where it stands.
        limit: bytes.
        name: of what is unpacked, in messages.
    """

    def __init__(self, stream: Readable | IO[bytes], limit: int, name: str) -> None:
        self._stream, self._limit, self._name, self._given = stream, limit, name, 0

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes.

        Raises:
            DataError: the limit is passed. Never more than one byte beyond it is held.
        """
        room = self._limit - self._given + 1
        data = self._stream.read(room if size < 0 else min(size, room))
        self._given += len(data)
        if self._given > self._limit:
            raise unpacks_to_more(self._name, self._limit)
        return data


def gunzipped(path: Path) -> bytes:
    """The content of a gzipped file.

    Raises:
        OSError: it cannot be read, or its compression is damaged.
        DataError: it unpacks to more than such a file can hold.
    """
    with gzip.open(path) as stream:
        try:
            return Bounded(stream, most_unpacked(path.stat().st_size), str(path)).read()
        except (EOFError, zlib.error) as error:
            raise OSError(f"damaged compression: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, or nested deeper than Python reads (about a thousand levels).
    """
    try:
        return from_json(text)  # reads what it takes as `json` does, in a quarter of the time
    except (ValueError, TypeError):
        pass  # `json` reads it after all (deeper nesting, half a surrogate pair), or says better what is wrong
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
