"""One run of an MLflow store, written piece by piece. Whatever the store raises passes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_ablate.masking import masked
from vlm_ablate.tracking.names import safe_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
Metrics = tuple[str, float, int, int]
"""Name, value, time in ms since the epoch, step."""

BATCH = 900
"""Metric points in one request; MLflow takes 1000."""
PARAM_BATCH = 90
"""Params or tags in one request; MLflow takes 100."""
PERMANENT = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"})
"""MLflow error codes that will not go away by trying again."""


def is_permanent(error: Exception) -> bool:
    """Whether trying the same again is pointless."""
    return getattr(error, "error_code", None) in PERMANENT or isinstance(error, (TypeError, KeyError, AttributeError))


class MlflowRun:
    """Writes to one run.

    Args:
        client: of the store.
        run_id: the run's.
        notice: hears of the single values that the store refuses; the others are written.
        allowed: asked before each request; raises when nothing may be written any more.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        notice: Callable[[str], None] = lambda message: None,
        allowed: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.run_id, self._notice, self._allowed = client, run_id, notice, allowed

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        from mlflow.entities import RunTag

        items = [RunTag(safe_name(key), value) for key, value in values.items()]
        self._batches(items, PARAM_BATCH, lambda part: self.client.log_batch(self.run_id, tags=part))

    def params(self, values: Mapping[str, str]) -> None:
        """Log params; a value once set cannot change."""
        from mlflow.entities import Param

        items = [Param(safe_name(key), value) for key, value in values.items()]
        self._batches(items, PARAM_BATCH, lambda part: self.client.log_batch(self.run_id, params=part))

    def points(self, points: Sequence[Metrics]) -> None:
        """Log metric points; a point that is there already is not doubled."""
        from mlflow.entities import Metric

        items = [Metric(safe_name(key), value, time_ms, step) for key, value, time_ms, step in points]
        self._batches(items, BATCH, lambda part: self.client.log_batch(self.run_id, metrics=part))

    def artifact(self, path: Path, folder: str) -> None:
        """A file, or the files of a folder, under `folder` of the run's artifacts."""
        self._allowed()
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder or None)
        elif path.exists():
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def dataset(self, name: str, digest: str) -> None:
        """A data set that the run read, shown in the UI's Dataset column."""
        from mlflow.entities import Dataset, DatasetInput

        self._allowed()
        entry = DatasetInput(Dataset(safe_name(name), digest[:36], "local", name), [])
        try:
            self.client.log_inputs(self.run_id, [entry])
        except Exception as error:
            # Runs that begin together all find the data set missing and all insert it; then it is there.
            if "IntegrityError" not in str(error):
                raise
            self.client.log_inputs(self.run_id, [entry])

    def end(self, status: str, time_ms: int | None) -> None:
        """Set MLflow's own status."""
        self._allowed()
        self.client.set_terminated(self.run_id, status, time_ms)

    def _batches(self, items: list[T], size: int, send: Callable[[list[T]], Any]) -> None:
        for start in range(0, len(items), size):
            self._send(items[start : start + size], send)

    def _send(self, part: list[T], send: Callable[[list[T]], Any]) -> None:
        """Send a batch; when the store refuses it for good, its halves, so that only what is refused is lost."""
        self._allowed()
        try:
            send(part)
        except Exception as error:
            if not is_permanent(error):
                raise
            if len(part) == 1:
                item: Any = part[0]
                reason = masked(str(error).strip().partition("\n")[0])[:200]
                self._notice(f"the tracking store refused {type(item).__name__.lower()} {item.key!r}: {reason}")
                return
            middle = len(part) // 2
            self._send(part[:middle], send)
            self._send(part[middle:], send)


def active_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run of that id; None when it is deleted or unknown."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def runs_tagged(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """Active runs of an experiment with these tags, the newest first."""
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items() if "'" not in value)
    found = client.search_runs([experiment_id], wanted, order_by=["start_time DESC"])
    return [run for run in found if all(run.data.tags.get(key) == value for key, value in tags.items())]


def delete_runs(client: MlflowClient, run_ids: Iterable[str]) -> None:
    """Delete runs; one that another process deletes at the same time is gone as well."""
    for run_id in run_ids:
        try:
            client.delete_run(run_id)
        except Exception:
            if active_run(client, run_id) is not None:
                raise
