"""Runs as a file: what is committed beside a table, and from which every table and figure can be rendered again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vlm_ablate.errors import TrackingError
from vlm_ablate.limits import parse_json
from vlm_ablate.storage import storage_errors, write_atomically
from vlm_ablate.tracking.answers import FILE_NAME, Answers, load_answers, load_item_scores
from vlm_ablate.tracking.examples import kept_examples
from vlm_ablate.tracking.records import History, Point, RunRecord

FILE_FORMAT = 1


@dataclass(frozen=True)
class RecordFile:
    """What a records file holds: the runs, and the metric histories that figures need, by run id."""

    records: list[RunRecord]
    histories: dict[str, History] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    """Ids of runs of the same arms in another configuration, whose records were not looked at."""
    answers: Mapping[str, Callable[[], Iterable[Answers]]] = field(default_factory=dict)
    """Run id -> reads what the run answered, where it is at hand."""
    examples: Mapping[str, Path] = field(default_factory=dict)
    """Run id -> its panel of pictures with truth and answers, where it is at hand."""


def dump_records(path: Path, records: Sequence[RunRecord], histories: Mapping[str, History] | None = None) -> None:
    """Write records to a JSON file from which every table and figure can be rendered without a store, in one go.

    Raises:
        StorageError: it cannot be written; what was there is there still.
    """
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, records_text(records, histories))


def records_text(records: Sequence[RunRecord], histories: Mapping[str, History] | None = None) -> str:
    """What a records file holds.

    What is private to a machine (artifact locations, MLflow's own tags with user and script names) is left out; scores
    by item stand in a file of their own (`answers.py`).
    """
    public = []
    for record in records:
        tags = {key: value for key, value in record.tags.items() if not key.startswith("mlflow.")}
        public.append(asdict(replace(record, tags=tags, artifact_uri="", items={})))
    for data in public:
        del data["items"]
        data["metrics"] = {key: _number(value) for key, value in data["metrics"].items()}
    points = {
        run: {key: [[p.step, _number(p.value), p.time_ms] for p in series] for key, series in history.items()}
        for run, history in (histories or {}).items()
    }
    body = {"format": FILE_FORMAT, "records": public, "histories": points}
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load_records(path: Path) -> RecordFile:
    """The inverse of `dump_records`, with what stands beside the file: answers and the panel of examples.

    Raises:
        TrackingError: the file is missing or not a records file; the message says which value is not what it should be.
    """
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrackingError(f"{path}: cannot be read as a records file ({error})") from error
    try:
        found = _record_file(body)
    except ValueError as error:
        raise TrackingError(f"{path}: cannot be read as a records file ({error})") from error
    items = load_item_scores(path.with_name(FILE_NAME))
    records = [replace(r, items=items.get(r.run_id, r.items)) for r in found.records]
    answers = {run: partial(load_answers, path.with_name(FILE_NAME), run) for run in items}
    return replace(found, records=records, answers=answers, examples=kept_examples(path.parent))


def _record_file(body: object) -> RecordFile:
    """Raises ValueError: what is wrong, and where."""
    top = _object(body, "its content", ("format",))
    if top["format"] != FILE_FORMAT:
        raise ValueError(f"records of format {top['format']}, this version reads {FILE_FORMAT}")
    _object(body, "its content", ("records", "histories"))
    if not isinstance(top["records"], list):
        raise ValueError(f"records must be a list, not {type(top['records']).__name__}")
    records = [_record(data, f"records[{i}]") for i, data in enumerate(top["records"])]
    histories = {
        run: {key: _series(series, f"histories.{run}.{key}") for key, series in _object(history, run).items()}
        for run, history in _object(top["histories"], "histories").items()
    }
    return RecordFile(records, histories)


def _record(data: object, where: str) -> RunRecord:
    values = _object(data, where, [f.name for f in fields(RunRecord) if f.default is f.default_factory is MISSING])
    if unknown := sorted(values.keys() - _types().keys()):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    metrics = {k: _parse(v, f"{where}.metrics.{k}") for k, v in _object(values["metrics"], f"{where}.metrics").items()}
    for name, value in values.items():
        if name != "metrics":
            try:
                _types()[name].validate_python(value, strict=True)
            except ValidationError as error:
                first = error.errors()[0]
                place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in (name, *first["loc"]))
                raise ValueError(f"{where}{place}: {first['msg']}, not {first['input']!r}") from error
    for i, score in enumerate(values.get("scores", [])):
        _check_score(score, f"{where}.scores[{i}]")
    return RunRecord(**{**values, "metrics": metrics})


@cache
def _types() -> dict[str, TypeAdapter[Any]]:
    """Field of a record -> what checks its type."""
    return {name: TypeAdapter(kind) for name, kind in get_type_hints(RunRecord).items()}


def _check_score(score: dict[str, Any], where: str) -> None:
    """What every reader of a score needs; its other fields are checked where they are compared."""
    _object(score, where, ("column", "score", "blind"))
    value = score["score"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where}.score: a finite number is needed, not {value!r}")


def _series(series: object, where: str) -> list[Point]:
    if not isinstance(series, list):
        raise ValueError(f"{where} must be a list of points, not {type(series).__name__}")
    points = []
    for i, point in enumerate(series):
        match point:
            case [int(step), value, int(time_ms)]:
                points.append(Point(step, _parse(value, f"{where}[{i}]"), time_ms))
            case _:
                raise ValueError(f"{where}[{i}] must be [step, value, milliseconds], not {point!r}")
    return points


def _object(value: object, where: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, not {type(value).__name__}")
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where} has no {missing[0]!r}")
    return value


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _parse(value: object, where: str) -> float:
    """A number; those that JSON has no word for are written as texts."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in ("nan", "inf", "-inf")):
        raise ValueError(f"{where}: a number is needed, not {value!r}")
    number = float(value)
    return math.nan if math.isnan(number) else number
