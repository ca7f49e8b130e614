"""Reads runs of any MLflow store through MlflowClient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from vlm_ablate.tracking.names import safe_name
from vlm_ablate.tracking.records import History, Point, RunRecord, make_record
from vlm_ablate.tracking.sqlite_reader import last_of_each_step
from vlm_ablate.tracking.store import check_server, connect, tracking_errors

PAGE = 500


class ClientReader:
    """Reads runs and metric histories through a tracking client."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        check_server(tracking_uri)  # its silence is told better than mlflow would
        self._client = connect(tracking_uri)

    def runs(self, experiment: str) -> list[RunRecord]:
        """Runs of one experiment, the oldest first."""
        with tracking_errors(self._uri):
            found = self._client.get_experiment_by_name(experiment)
            if not found or found.lifecycle_stage != "active":
                return []
            runs = list(self._search([found.experiment_id], ""))
        records = [self._record(run, experiment) for run in runs]
        return sorted(records, key=lambda record: (record.start_time, record.run_id))

    def history(self, run_id: str, keys: Sequence[str]) -> History:
        """Points of the metrics of a run, by step; where a step was logged twice, the later one."""
        history: History = {}
        for key in keys:
            with tracking_errors(self._uri):
                points = self._client.get_metric_history(run_id, safe_name(key))
            ordered = sorted((Point(p.step, math.nan if math.isnan(p.value) else p.value, p.timestamp) for p in points),
                             key=lambda p: (p.step, p.time_ms))  # fmt: skip
            history[key] = last_of_each_step(ordered)
        return history

    def _search(self, experiment_ids: list[str], filter_string: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(experiment_ids, filter_string, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _record(self, run: Any, experiment: str) -> RunRecord:
        info, data = run.info, run.data
        return make_record(
            info.run_id, experiment, info.run_name, info.status, dict(data.tags), dict(data.params),
            dict(data.metrics), info.start_time, info.end_time, info.artifact_uri,
        )  # fmt: skip
