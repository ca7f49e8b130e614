"""The run of an experiment that carries its table, and the experiment's description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_ablate.tracking import operations, schema
from vlm_ablate.tracking.operations import RunKey, RunWriter
from vlm_ablate.tracking.store import connect, ensure_store, open_experiment, tracking_errors


def register_experiment(tracking_uri: str, name: str, tags: Mapping[str, str]) -> str:
    """Create the MLflow experiment, or bring its tags and description up to date; returns its id.

    Args:
        tags: as `store.describe_experiment` gives them.

    Raises:
        TrackingError: the store fails.
    """
    ensure_store(tracking_uri)
    return open_experiment(connect(tracking_uri), tracking_uri, name, tags)


def record_table(
    tracking_uri: str,
    experiment: str,
    files: Sequence[Path],
    *,
    markdown: str = "",
    claims: Sequence[Mapping[str, Any]] = (),
    scale: str = "",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Put a table on the experiment's one `table` run of that scale, replacing what it showed; returns the run's id.

    Args:
        files: table and figure files, stored under `table/`.
        markdown: the table as the run's description.
        claims: verdicts, as plain data.

    Raises:
        TrackingError: the store fails.
    """
    ensure_store(tracking_uri)
    name = f"table · {scale}" if scale else "table"
    # The scale takes the place of an arm: one table run per scale.
    writer = RunWriter(RunKey(tracking_uri, experiment, schema.TABLE_KIND, "", scale))
    own = {schema.KIND: schema.TABLE_KIND, schema.ARM: scale, schema.SCALE: scale, schema.STATUS: schema.RUNNING}
    with tracking_errors(tracking_uri):
        writer.apply(operations.create(name, {**(tags or {}), **own, "mlflow.source.name": "vlm-ablate table"}))
        for file in files:
            writer.apply(operations.artifact(file, schema.TABLE_DIR))
        described = {schema.DESCRIPTION: markdown[: schema.TAG_LIMIT], schema.STATUS: schema.FINISHED}
        writer.apply(operations.tags(schema.json_tag(schema.CLAIMS, list(claims)) | described))
        writer.apply(operations.status("FINISHED", end=True))
    assert writer.run_id is not None
    return writer.run_id
