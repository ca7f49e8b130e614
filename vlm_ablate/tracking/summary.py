"""The runs of an experiment that carry its table or its sweep, and the experiment's description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.tracking import schema
from vlm_ablate.tracking.mlflow_run import MlflowRun, runs_tagged
from vlm_ablate.tracking.store import connect, ensure_store, open_experiment, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    told = {**(tags or {}), **schema.json_tag(schema.CLAIMS, list(claims))}
    return _record(tracking_uri, experiment, schema.TABLE_KIND, scale, files, markdown, told)


def record_sweep(
    tracking_uri: str,
    experiment: str,
    files: Sequence[Path] = (),
    *,
    markdown: str = "",
    scale: str = "",
    finished: bool = False,
    searched: Sequence[str] = (),
    objective: str = schema.MEAN,
) -> str:
    """Make the run below which the trials of a sweep stand, or bring it up to date; returns its id.

    Args:
        files: figures, stored under `sweep/`.
        markdown: the best trials as the run's description.
        finished: the sweep has ended.
        searched: dotted fields of its space; what the UI shows of trials follows them.
        objective: column of the score that counts.

    Raises:
        TrackingError: the store fails.
    """
    told = {**schema.json_tag(schema.SEARCHED, list(searched)), schema.OBJECTIVE: objective}
    return _record(tracking_uri, experiment, schema.SWEEP_KIND, scale, files, markdown, told, finished=finished)


def _record(
    tracking_uri: str,
    experiment: str,
    kind: str,
    scale: str,
    files: Sequence[Path],
    markdown: str,
    tags: Mapping[str, str],
    *,
    finished: bool = True,
) -> str:
    """The experiment's one run of a kind at a scale, with files in a folder of the kind's name."""
    ensure_store(tracking_uri)
    name = f"{kind} · {scale}" if scale else kind
    own = {schema.KIND: kind, schema.SCALE: scale}
    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        experiment_id = open_experiment(client, tracking_uri, experiment)
        run_id = _only_run(client, experiment_id, own, name)
        run = MlflowRun(client, run_id)
        client.update_run(run_id, status="RUNNING", name=name)
        run.tags({**tags, **own, schema.STATUS: schema.RUNNING, "mlflow.source.name": f"vlm-ablate {kind}"})
        for file in files:
            run.artifact(file, kind)
        run.tags({schema.DESCRIPTION: markdown[: schema.TAG_LIMIT]} if markdown else {})
        if finished:
            run.tags({schema.STATUS: schema.FINISHED})
            run.end("FINISHED", None)
    return run_id


def _only_run(client: MlflowClient, experiment_id: str, own: Mapping[str, str], name: str) -> str:
    """Id of the experiment's one run with these tags, made where there is none.

    Of several that were made at the same moment the first one counts, and whoever made another removes it.
    """
    if found := runs_tagged(client, experiment_id, own):
        return str(found[0].info.run_id)
    made: str = client.create_run(experiment_id, tags=dict(own), run_name=name).info.run_id
    first = min(runs_tagged(client, experiment_id, own), key=lambda run: (run.info.start_time, run.info.run_id))
    if first.info.run_id != made:
        client.delete_run(made)
    return str(first.info.run_id)
