"""Runs read back from a tracking store.

A SQLite store is read with the standard library (importing mlflow alone costs seconds); any other store through
MlflowClient. Both give equal records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, RunRecord
from vlm_ablate.tracking.sqlite_reader import SqliteReader, sqlite_path


class Reader(Protocol):
    """Reads one store."""

    def runs(self, experiment: str) -> list[RunRecord]:
        """Runs of an experiment that are not deleted, the oldest first; none when there is no such experiment."""

    def history(self, run_id: str, keys: Sequence[str]) -> History:
        """Points of the metrics of a run, by step."""


def read_records(tracking_uri: str, experiment: str, *, kind: str | None = schema.RUN_KIND) -> list[RunRecord]:
    """All runs of an experiment that are not deleted, oldest first; empty when the experiment does not exist yet.

    Args:
        kind: `run` (default), `table`, or None for both.

    Raises:
        TrackingError: the store does not exist or cannot be reached.
    """
    records = _reader(tracking_uri).runs(experiment)
    return [record for record in records if kind is None or record.kind == kind]


def read_history(tracking_uri: str, run_id: str, keys: Sequence[str]) -> History:
    """All logged points of the given metrics of one run; a metric never logged gives an empty list.

    Raises:
        TrackingError: the store does not exist or cannot be reached.
    """
    return _reader(tracking_uri).history(run_id, keys)


def _reader(tracking_uri: str) -> Reader:
    path = sqlite_path(tracking_uri)
    if path is not None:
        return SqliteReader(path)
    from vlm_ablate.tracking.client_reader import ClientReader

    return ClientReader(tracking_uri)
