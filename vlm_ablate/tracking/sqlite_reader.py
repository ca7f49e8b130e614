"""Reads an MLflow SQLite store with the standard library, read-only. Tables as of the MLflow 2 and 3 schemas."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlm_ablate.errors import TrackingError
from vlm_ablate.tracking.names import safe_name
from vlm_ablate.tracking.records import History, Point, RunRecord, make_record

BUSY_TIMEOUT = 10.0
"""Seconds to wait for a writer that holds the database."""

_RUNS = """
SELECT r.run_uuid, e.name, r.name, r.status, r.start_time, r.end_time, r.artifact_uri
FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active' AND e.name = ?
ORDER BY r.start_time, r.run_uuid
"""


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file behind a `sqlite:///` URI, or None for any other URI."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])


class SqliteReader:
    """Reads runs and metric histories from one database file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise TrackingError(
                f"there is no tracking store at {path}", hint="run an experiment first: vlm-ablate run FILE"
            )
        self._path = path

    def runs(self, experiment: str) -> list[RunRecord]:
        """Runs of one experiment, the oldest first."""
        with self._connected() as db:
            rows = db.execute(_RUNS, (experiment,)).fetchall()
            ids = [row[0] for row in rows]
            tags = _grouped(db, "SELECT run_uuid, key, value FROM tags", ids)
            params = _grouped(db, "SELECT run_uuid, key, value FROM params", ids)
            metrics = _grouped(
                db, "SELECT run_uuid, key, CASE WHEN is_nan THEN NULL ELSE value END FROM latest_metrics", ids
            )
        return [
            make_record(
                run, name_of, name, status, tags[run], params[run], _floats(metrics[run]), start, end, artifact_uri
            )
            for run, name_of, name, status, start, end, artifact_uri in rows
        ]

    def run_ids(self) -> set[str]:
        """Ids of all runs that are not deleted."""
        with self._connected() as db:
            return {row[0] for row in db.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")}

    def experiments(self) -> list[tuple[int, str]]:
        """Id and name of every experiment that has runs, the newest first."""
        query = (
            "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' AND experiment_id IN "
            "(SELECT experiment_id FROM runs WHERE lifecycle_stage = 'active') ORDER BY creation_time DESC"
        )
        with self._connected() as db:
            return list(db.execute(query))

    def experiment_tag(self, experiment_id: int, key: str) -> str | None:
        """Value of a tag of an experiment; None without it."""
        query = "SELECT value FROM experiment_tags WHERE experiment_id = ? AND key = ?"
        with self._connected() as db:
            found = db.execute(query, (experiment_id, key)).fetchone()
        return None if found is None else str(found[0])

    def history(self, run_id: str, keys: Sequence[str]) -> History:
        """Points of the metrics of a run, by step; where a step was logged twice, the later one."""
        history: History = {key: [] for key in keys}
        named = {safe_name(key): key for key in keys}
        marks, wanted = _marks(named)
        query = (
            "SELECT key, step, CASE WHEN is_nan THEN NULL ELSE value END, timestamp FROM metrics "
            f"WHERE run_uuid = ? AND key IN ({marks}) ORDER BY key, step, timestamp"
        )
        with self._connected() as db:
            for key, step, value, time_ms in db.execute(query, (run_id, *wanted)):
                history[named[key]].append(Point(step, math.nan if value is None else value, time_ms))
        return {key: last_of_each_step(points) for key, points in history.items()}

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(f"file:{quote(str(self._path.absolute()))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT)
            try:
                yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise TrackingError(f"{self._path} cannot be read as an MLflow store: {error}") from error


def last_of_each_step(points: Sequence[Point]) -> list[Point]:
    """Points ordered by (step, time) with one per step, the latest: a resumed run logs some steps again."""
    return list({point.step: point for point in points}.values())


def _marks(values: Any) -> tuple[str, list[str]]:
    wanted = list(values)
    return ",".join("?" * len(wanted)), wanted


def _grouped(db: sqlite3.Connection, query: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {run: {} for run in ids}
    for start in range(0, len(ids), 500):
        marks, wanted = _marks(ids[start : start + 500])
        for run, key, value in db.execute(f"{query} WHERE run_uuid IN ({marks})", wanted):
            groups[run][key] = value
    return groups


def _floats(values: dict[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}
