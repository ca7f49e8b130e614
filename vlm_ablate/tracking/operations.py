"""What a run writes to its store, as plain values that can be applied now, or spooled and applied later.

Applying an operation twice leaves the store as applying it once, so a spool may be replayed after a doubtful delivery.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vlm_ablate.errors import TrackingError
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import sqlite_path
from vlm_ablate.tracking.store import connect, forget_connections, open_experiment

Operation = dict[str, Any]

BATCH = 900
"""Metric points in one request; MLflow takes 1000."""
PARAM_BATCH = 90
"""Params or tags in one request; MLflow takes 100."""

PERMANENT = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"})
"""MLflow error codes that will not go away by trying again."""


@dataclass(frozen=True)
class RunKey:
    """Which tracked run an operation is about: it is found again by these, in any process."""

    uri: str
    experiment: str
    kind: str
    hash: str
    arm: str

    def filter(self) -> str:
        """MLflow search filter for runs of this kind and hash; the arm is compared by `matches`, free of quoting."""
        wanted = {schema.KIND: self.kind, schema.HASH: self.hash}
        return " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items() if value)

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags is the run of this key."""
        return tags.get(schema.ARM, "") == self.arm


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def create(name: str, tags: dict[str, str]) -> Operation:
    """Find the run of the key or create it, and set it running."""
    return {"op": "create", "name": name, "tags": tags, "start_ms": now_ms()}


def metrics(points: list[tuple[str, float, int, int]]) -> Operation:
    """Points (metric, value, time in ms, step)."""
    return {"op": "metrics", "points": [list(point) for point in points]}


def params(values: dict[str, str]) -> Operation:
    """Params; a value once set cannot change."""
    return {"op": "params", "values": values}


def tags(values: dict[str, str]) -> Operation:
    """Tags; a later value replaces an earlier one."""
    return {"op": "tags", "values": values}


def artifact(path: Path, folder: str) -> Operation:
    """A file, or all files of a folder, put under `folder` of the run's artifacts."""
    return {"op": "artifact", "path": str(path.absolute()), "folder": folder}


def dataset(name: str, digest: str, source: str) -> Operation:
    """A data set the run read, shown in the UI's Dataset column."""
    return {"op": "dataset", "name": name, "digest": digest[:36], "source": source}


def status(mlflow_status: str, end: bool) -> Operation:
    """MLflow's own status of the run."""
    return {"op": "status", "status": mlflow_status, "end_ms": now_ms() if end else None}


class RunWriter:
    """Applies operations to one run of one store. `run_id` is known once `create` was applied."""

    def __init__(self, key: RunKey, run_id: str | None = None) -> None:
        self.key, self.run_id = key, run_id
        self._client: Any = None
        self._file: tuple[int, int] | None = None

    @property
    def client(self) -> Any:
        """The MLflow client, connected at first use."""
        if self._client is None:
            self._client = connect(self.key.uri)
        return self._client

    def apply(self, operation: Operation) -> None:
        """Write one operation; whatever mlflow raises passes through.

        Raises:
            TrackingError: the database file of a local store is not there.
        """
        self._check_file()
        getattr(self, f"_{operation['op']}")(operation)

    def _check_file(self) -> None:
        """SQLite makes an empty file of a missing one, and writes on into one that was moved away: look first."""
        path = sqlite_path(self.key.uri)
        if path is None:
            return
        try:
            found = path.stat()
        except OSError as error:
            raise TrackingError(f"the tracking store {path} is gone") from error
        identity = (found.st_dev, found.st_ino)
        if self._file not in (None, identity):
            forget_connections(self.client)
        self._file = identity

    def _create(self, operation: Operation) -> None:
        experiment = open_experiment(self.client, self.key.uri, self.key.experiment)
        candidates = self.client.search_runs([experiment], self.key.filter(), order_by=["start_time DESC"])
        found = [run for run in candidates if self.key.matches(run.data.tags)]
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING", name=operation["name"])
            # What an earlier attempt ended with is no longer true.
            stale = {schema.MESSAGE: ""} if schema.MESSAGE in found[0].data.tags else {}
            self._tags({"values": stale | operation["tags"]})
            return
        created = self.client.create_run(
            experiment, start_time=operation["start_ms"], tags=operation["tags"], run_name=operation["name"]
        )
        self.run_id = created.info.run_id

    def _metrics(self, operation: Operation) -> None:
        from mlflow.entities import Metric

        points = [Metric(key, value, time_ms, step) for key, value, time_ms, step in operation["points"]]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(self.run_id, metrics=points[start : start + BATCH])

    def _params(self, operation: Operation) -> None:
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in operation["values"].items()]
        for start in range(0, len(items), PARAM_BATCH):
            self.client.log_batch(self.run_id, params=items[start : start + PARAM_BATCH])

    def _tags(self, operation: Operation) -> None:
        from mlflow.entities import RunTag

        items = [RunTag(key, value) for key, value in operation["values"].items()]
        for start in range(0, len(items), PARAM_BATCH):
            self.client.log_batch(self.run_id, tags=items[start : start + PARAM_BATCH])

    def _artifact(self, operation: Operation) -> None:
        path, folder = Path(operation["path"]), operation["folder"] or None
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        elif path.exists():
            self.client.log_artifact(self.run_id, str(path), folder)

    def _dataset(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput

        entry = Dataset(operation["name"], operation["digest"], "local", operation["source"])
        try:
            self.client.log_inputs(self.run_id, [DatasetInput(entry, [])])
        except Exception as error:
            # Runs that begin together all find the data set missing and all insert it; then it is there.
            if "IntegrityError" not in str(error):
                raise
            self.client.log_inputs(self.run_id, [DatasetInput(entry, [])])

    def _status(self, operation: Operation) -> None:
        self.client.set_terminated(self.run_id, operation["status"], operation["end_ms"])


def is_permanent(error: Exception) -> bool:
    """Whether trying the same operation again is pointless."""
    return getattr(error, "error_code", None) in PERMANENT or isinstance(error, (TypeError, KeyError, AttributeError))


def local_folder(artifact_uri: str) -> Path | None:
    """The folder behind a `file:` artifact URI, or None when artifacts are elsewhere."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "") and parts.path else None
