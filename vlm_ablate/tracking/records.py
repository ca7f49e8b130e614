"""Runs read back as values. A table is computed from these and from nothing else.

A SQLite store is read with the standard library (importing mlflow alone costs seconds); any other store through
MlflowClient. Both give equal records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vlm_ablate.tracking import schema


class Point(NamedTuple):
    """One logged value of a metric."""

    step: int
    value: float
    time_ms: int


History = dict[str, list[Point]]
"""Metric name -> points in order of step."""


@dataclass(frozen=True)
class RunRecord:
    """One tracked run: one arm with one seed (or, with kind `table`, the summary of an experiment)."""

    run_id: str
    experiment: str
    name: str
    status: str
    """finished | diverged | failed | skipped | running"""
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    """Last value of each metric."""
    arm: str
    seed: int
    scale: str
    scores: list[dict[str, Any]] = field(default_factory=list)
    """Score records as plain data: benchmark, column, split, ..., score (0..100), blind."""
    start_time: int = 0
    """Milliseconds since the epoch."""
    end_time: int | None = None
    artifact_uri: str = ""

    @property
    def kind(self) -> str:
        """`run` or `table`."""
        return self.tags.get(schema.KIND, schema.RUN_KIND)

    @property
    def hash(self) -> str:
        """Hash of the run's spec."""
        return self.tags.get(schema.HASH, "")

    @property
    def label(self) -> str:
        """The arm as a reader sees it."""
        return self.tags.get(schema.LABEL, self.arm)

    @property
    def message(self) -> str:
        """Why it failed, diverged or was skipped."""
        return self.tags.get(schema.MESSAGE, "")

    @property
    def cell(self) -> dict[str, Any] | None:
        """The paper's cell this arm stands for."""
        return schema.read_json_tag(self.tags, schema.CELL)

    @property
    def stand_ins(self) -> dict[str, str]:
        """Dotted path -> what stands in for what the paper names."""
        return schema.read_json_tag(self.tags, schema.STAND_INS, {})

    @property
    def scaled(self) -> dict[str, str]:
        """Dotted path -> the paper's value and the one that the scale put in its place."""
        return schema.read_json_tag(self.tags, schema.SCALED, {})


def read_records(tracking_uri: str, experiment: str, *, kind: str | None = schema.RUN_KIND) -> list[RunRecord]:
    """All runs of an experiment that are not deleted, oldest first; empty when the experiment does not exist yet.

    Args:
        kind: `run` (default), `table`, or None for both.

    Raises:
        TrackingError: the store does not exist or cannot be reached.
    """
    return _of_kind(_reader(tracking_uri).runs(experiment=experiment), kind)


def find_done(tracking_uri: str, hashes: Iterable[str]) -> dict[str, list[RunRecord]]:
    """Hash -> runs of any experiment that finished or diverged with that hash. No store yet: empty.

    Raises:
        TrackingError: the store cannot be reached.
    """
    wanted = set(hashes)
    path = sqlite_path(tracking_uri)
    if not wanted or (path is not None and not path.exists()):
        return {}
    found: dict[str, list[RunRecord]] = {}
    for record in _of_kind(_reader(tracking_uri).runs(hashes=wanted), schema.RUN_KIND):
        if record.status in schema.DONE:
            found.setdefault(record.hash, []).append(record)
    return found


def read_history(tracking_uri: str, run_id: str, keys: Sequence[str]) -> History:
    """All logged points of the given metrics of one run; a metric never logged gives an empty list.

    Raises:
        TrackingError: the store does not exist or cannot be reached.
    """
    return _reader(tracking_uri).history(run_id, keys)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file behind a `sqlite:///` URI, or None for any other URI."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])


def _reader(tracking_uri: str) -> Any:
    path = sqlite_path(tracking_uri)
    if path is not None:
        from vlm_ablate.tracking.sqlite_reader import SqliteReader

        return SqliteReader(path)
    from vlm_ablate.tracking.client_reader import ClientReader

    return ClientReader(tracking_uri)


def _of_kind(records: list[RunRecord], kind: str | None) -> list[RunRecord]:
    return [record for record in records if kind is None or record.kind == kind]


def make_record(
    run_id: str,
    experiment: str,
    name: str,
    mlflow_status: str,
    tags: dict[str, str],
    params: dict[str, str],
    metrics: dict[str, float],
    start_time: int | None,
    end_time: int | None,
    artifact_uri: str,
) -> RunRecord:
    """A record from what a store holds; the one place where tags are interpreted."""
    status = tags.get(schema.STATUS) or {"FINISHED": schema.FINISHED, "RUNNING": schema.RUNNING}.get(
        mlflow_status, schema.FAILED
    )
    return RunRecord(
        run_id=run_id,
        experiment=experiment,
        name=name or "",
        status=status,
        tags=dict(sorted(tags.items())),
        params=dict(sorted(params.items())),
        # One NaN object, so that equal records compare equal.
        metrics={key: math.nan if math.isnan(value) else value for key, value in sorted(metrics.items())},
        arm=tags.get(schema.ARM, ""),
        seed=int(tags.get(schema.SEED, 0)),
        scale=tags.get(schema.SCALE, ""),
        scores=schema.read_json_tag(tags, schema.SCORES, []),
        start_time=start_time or 0,
        end_time=end_time,
        artifact_uri=artifact_uri or "",
    )
