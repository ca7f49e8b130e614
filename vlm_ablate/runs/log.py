"""The log of one stage: JSON lines of metrics against optimiser steps, on disk before the checkpoint that follows them.

It is what figures are drawn from and what a tracking store is filled from. A process that dies may leave half a last
line, which the next reader drops; anything else that cannot be read is an error that names file and line.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

from vlm_ablate.errors import StorageError
from vlm_ablate.sealed import sealed, unsealed
from vlm_ablate.storage import check_writable, storage_errors, write_atomically

_RECENT = 1.0
"""Seconds that a look at the lease holds for log lines, which may come often."""


class LogLine(NamedTuple):
    """Metrics at one optimiser step, counted over all stages of the run."""

    step: int
    time_ms: int
    values: dict[str, float]
    asked: Mapping[str, str] | None = None
    """Metric of a score along the way -> how it was asked (`keys.curve_keys`); None: that is not told."""


class Log:
    """Appends entries to a file.

    `rewind` makes the file anew. So a process that lost its lease, and is stopped between the look at it and the write,
    writes to a file that is not there any more.

    Args:
        path: of the file; made on the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(
        self, values: Mapping[str, float], step: int, *, time_ms: int | None = None,
        asked: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Append metrics, of now or of the given ms since the epoch. They survive the death of this process.

        Args:
            asked: see `LogLine`.

        Raises:
            StorageError: the disk does not take them.
            LeaseLost: this process has lost the right to write there.
        """
        now = time.time_ns() // 1_000_000 if time_ms is None else time_ms
        line = _line(LogLine(int(step), now, {key: float(value) for key, value in values.items()}, asked)).encode()
        with storage_errors("write", self.path):
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # until `close`
            check_writable(self.path, recent=_RECENT)
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "no space left")

    def sync(self) -> None:
        """Have the disk itself hold everything so far: before a checkpoint that will not repeat it."""
        if self._file is not None:
            with storage_errors("write", self.path):
                os.fsync(self._file.fileno())

    def rewind(self, step: int) -> None:
        """Drop what was logged after `step`: training goes on from a checkpoint and will log it again."""
        self.close()
        if self.path.exists():
            kept = [entry for entry in read_log(self.path) if entry.step <= step]
            write_atomically(self.path, "".join(_line(entry) for entry in kept))


def read_log(path: Path) -> list[LogLine]:
    """All entries; none when there is no file. A last line that was cut short is dropped.

    Raises:
        StorageError: the file cannot be read, or a line before the last is no entry.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    whole, torn = lines[:-1], lines[-1]
    entries = []
    for number, line in enumerate(whole, 1):
        entry = _parsed(line)
        if entry is None:
            raise StorageError(
                f"{path}:{number} is no entry of a run's log", hint="remove the line; the rest of the file is kept"
            )
        entries.append(entry)
    last = _parsed(torn) if torn else None
    return [*entries, last] if last else entries


def _parsed(line: bytes) -> LogLine | None:
    try:
        row = unsealed(line)
        values = {str(k): float(v) for k, v in row["values"].items()}
        asked = {str(k): str(v) for k, v in row["asked"].items()} if "asked" in row else None
        return LogLine(int(row["step"]), int(row["time_ms"]), values, asked)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # the last: a step of 1e999
        return None


def _line(entry: LogLine) -> str:
    values = {k: _plain(v) for k, v in entry.values.items()}
    told = {} if entry.asked is None else {"asked": dict(entry.asked)}
    row = {"step": entry.step, "time_ms": entry.time_ms, "values": values, **told}
    return sealed(row, allow_nan=False) + "\n"


def _plain(value: float) -> float | str:
    """JSON has no infinity and no NaN: they are written as text."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
