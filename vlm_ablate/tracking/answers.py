"""What the models of a table answered, compressed in one file beside its records: each question once, then the answers.

JSON, compressed with xz. `columns`: column -> [id, question, references] of each item. `runs`: run id -> column ->
[prediction, score] of each item in that order; blind evaluations stand under `COLUMN (blind)`.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_ablate.errors import TrackingError
from vlm_ablate.limits import parse_json
from vlm_ablate.storage import storage_errors, write_atomically

FILE_NAME = "predictions.json.xz"
FILE_FORMAT = 1
LARGEST = 1 << 30
"""Bytes that a file may hold when it is unpacked."""

_BLIND = " (blind)"
_NUMBER = re.compile(r" \(\d+\)$")
"""Of a column's second and later lists of items."""

Row = tuple[str, str, tuple[str, ...], str, float | None]
"""Id, question, references, prediction, score (0..1; None: not readable)."""


@dataclass(frozen=True)
class Answers:
    """One evaluation of one run."""

    column: str
    blind: bool
    rows: tuple[Row, ...]


def dump_answers(path: Path, runs: Mapping[str, Iterable[Answers]]) -> bool:
    """Write the answers of some runs (by run id); False, and no file, where there are none.

    Items that two runs were not asked alike stand in the column once for each order.

    Raises:
        StorageError: the file cannot be written.
    """
    columns: dict[str, list[list[Any]]] = {}
    told: dict[str, dict[str, list[list[Any]]]] = {}
    for run, answers in runs.items():
        for part in answers:
            items = [[id, question, list(references)] for id, question, references, _, _ in part.rows]
            name = _column(columns, part.column, items)
            place = f"{name}{_BLIND}" if part.blind else name
            told.setdefault(run, {})[place] = [[prediction, score] for _, _, _, prediction, score in part.rows]
    if not told:
        return False
    body = {"format": FILE_FORMAT, "columns": columns, "runs": told}
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_atomically(path, lzma.compress(text.encode(), preset=6))
    return True


def _column(columns: dict[str, list[list[Any]]], column: str, items: list[list[Any]]) -> str:
    """The name under which these items stand; others under that name give it a number."""
    number, name = 1, column
    while columns.setdefault(name, items) != items:
        number += 1
        name = f"{column} ({number})"
    return name


def load_item_scores(path: Path) -> dict[str, dict[str, list[float | None]]]:
    """Run id -> column -> score of each item with images; empty where there is no such file.

    Raises:
        TrackingError: it is no such file.
    """
    if not path.is_file():
        return {}
    try:
        body = _read(path)
        return {
            str(run): {
                _NUMBER.sub("", c): [_score(row) for row in rows]
                for c, rows in columns.items()
                if not c.endswith(_BLIND)
            }
            for run, columns in body["runs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def load_answers(path: Path, run: str) -> list[Answers]:
    """What a run answered, as it was given to `dump_answers`; nothing where there is no such file, or it lacks the run.

    Raises:
        TrackingError: it is no such file.
    """
    if not path.is_file():
        return []
    try:
        body = _read(path)
        found = []
        for place, told in body["runs"].get(run, {}).items():
            name = place.removesuffix(_BLIND)
            rows = tuple(_row(*pair) for pair in zip(body["columns"][name], told, strict=True))
            found.append(Answers(_NUMBER.sub("", name), name != place, rows))
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _row(item: Any, answer: Any) -> Row:
    id, question, references = item
    prediction, _ = answer
    texts = [id, question, prediction, *(references if isinstance(references, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts are needed, and a list of them as references, not {item!r:.80} and {answer!r:.80}")
    return id, question, tuple(references), prediction, _score(answer)


def _unreadable(path: Path, error: Exception) -> TrackingError:
    return TrackingError(f"{path}: cannot be read as a file of predictions ({error})")


def _read(path: Path) -> dict[str, Any]:
    """Raises ValueError: it is none."""
    with storage_errors("read", path):
        return _body(path.read_bytes())


@lru_cache(maxsize=1)
def _body(data: bytes) -> dict[str, Any]:
    """The last is remembered: it is asked for by each of its runs."""
    try:
        body = parse_json(lzma.LZMADecompressor(memlimit=1 << 28).decompress(data, LARGEST))
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error
    if not isinstance(body, dict) or body.get("format") != FILE_FORMAT:
        raise ValueError(f"predictions of format {FILE_FORMAT} are needed")
    return body


def _score(row: Any) -> float | None:
    _, score = row
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise ValueError(f"a score must be a number or null, not {score!r}")
    return score
