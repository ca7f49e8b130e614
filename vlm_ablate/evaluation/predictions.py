"""The predictions file of one evaluation: JSONL that grows with every batch, so that a killed evaluation continues.

First line: the protocol it belongs to. Then one object an item: `id`, `question`, `prediction`, `references`, `shots`
(ids of the demonstrations). When all are there the file is rewritten in the benchmark's order with each item's `score`.
A file of another protocol is started anew; a torn last line is dropped.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from vlm_ablate.errors import DataError, StorageError
from vlm_ablate.sealed import sealed, unsealed
from vlm_ablate.storage import check_writable, write_atomically


@dataclass(frozen=True)
class Prediction:
    """One answered item."""

    id: str
    question: str
    prediction: str
    references: tuple[str, ...]
    shots: tuple[str, ...] = ()
    score: float | None = None
    """0..1 (CIDEr 0..10); None if unparsed or not scored yet."""

    @property
    def line(self) -> str:
        """As one line of JSON."""
        return sealed(asdict(self))


class PredictionFile:
    """Predictions on disk. Open with `with`; writing to a finished file is an error of the caller."""

    def __init__(self, path: Path, protocol: dict[str, Any]) -> None:
        self.path, self._protocol = path, {**protocol, "format": 1}
        self.done: dict[str, Prediction] = {}
        self._file: IO[bytes]

    def __enter__(self) -> PredictionFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A new file: who lost the lease, and is stopped between the look at it and the write, has the old one.
            kept = self._read()
            write_atomically(self.path, kept, durable=False)
            self._file = self.path.open("ab", buffering=0)
            if not kept:
                self._write(self._head + "\n")
        except OSError as error:
            raise StorageError(f"cannot write predictions to {self.path}: {error}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append a batch; it is on disk when this returns, as far as the operating system is concerned.

        Raises:
            StorageError: the disk does not take it.
            LeaseLost: this process has lost the right to write there.
        """
        predictions = list(predictions)
        try:
            self._write("".join(p.line + "\n" for p in predictions))
        except OSError as error:
            raise StorageError(f"cannot write predictions to {self.path}: {error}") from error
        self.done.update((p.id, p) for p in predictions)

    def finish(self, order: Iterable[str], scores: Iterable[float | None]) -> list[Prediction]:
        """Rewrite the file in `order` with scores, atomically; returns the predictions."""
        scored = [replace(self.done[i], score=s) for i, s in zip(order, scores, strict=True)]
        write_atomically(self.path, "\n".join([self._head, *(p.line for p in scored), ""]))
        return scored

    @property
    def _head(self) -> str:
        return sealed({"protocol": self._protocol})

    def _write(self, text: str) -> None:
        check_writable(self.path, recent=1.0)
        data = text.encode()
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self) -> bytes:
        """Take in what an earlier evaluation of this protocol wrote; returns the whole lines of it."""
        if not self.path.is_file():
            return b""
        head, *lines = self.path.read_bytes().split(b"\n")
        if _parsed(head) != {"protocol": json.loads(json.dumps(self._protocol))} or not lines:
            return b""
        kept = [head]
        for line in lines[:-1]:
            try:
                prediction = _prediction(_parsed(line))
            except ValueError:
                break  # what follows is asked again
            self.done[prediction.id] = prediction
            kept.append(line)
        return b"\n".join([*kept, b""])


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file, finished or not.

    Raises:
        DataError: the file is not there or not such a file, or a line of it is no prediction; the message says which.
    """
    try:
        head, *lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read predictions from {path}: {error}") from error
    if "protocol" not in (_parsed(head) or {}):
        raise DataError(f"{path} is not a predictions file: its first line names no protocol")
    predictions = []
    for number, line in enumerate(lines[:-1], 2):  # what follows the last line end is torn, or nothing
        try:
            predictions.append(_prediction(_parsed(line)))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return predictions


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None when there is none, or it is damaged."""
    try:
        return unsealed(line)
    except ValueError:
        return None


def _prediction(row: dict[str, Any] | None) -> Prediction:
    """A prediction from what a line holds; keys that this version does not know are ignored.

    Raises:
        ValueError: it is no prediction, with the first field that is not what it should be.
    """
    if row is None:
        raise ValueError("not a JSON object, or damaged since it was written")
    for name in ("id", "question", "prediction"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{name!r} must be a text, not {_kind(row, name)}")
    for name in ("references", "shots"):
        value = row.get(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            inside = f"a list with {next(type(t).__name__ for t in value if not isinstance(t, str))}" if (
                isinstance(value, list)) else _kind(row, name)  # fmt: skip
            raise ValueError(f"{name!r} must be a list of texts, not {inside}")
    score = row.get("score")
    number = isinstance(score, (int, float)) and not isinstance(score, bool)
    if score is not None and not (number and math.isfinite(score)):
        raise ValueError(f"'score' must be a finite number or null, not {score if number else type(score).__name__}")
    references, shots = tuple(row["references"]), tuple(row["shots"])
    return Prediction(row["id"], row["question"], row["prediction"], references, shots, score)


def _kind(row: dict[str, Any], name: str) -> str:
    return type(row[name]).__name__ if name in row else "missing"
