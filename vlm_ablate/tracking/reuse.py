"""A run that several tables need is trained once: its record is copied to wherever else it belongs."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import operations, schema
from vlm_ablate.tracking.logger import spec_params, spec_tags
from vlm_ablate.tracking.operations import RunKey, RunWriter
from vlm_ablate.tracking.records import RunRecord, find_done, read_history, read_records
from vlm_ablate.tracking.store import tracking_errors

_OF_THE_SPEC = {schema.KIND, schema.HASH, schema.ARM, schema.LABEL, schema.SEED, schema.SCALE, schema.PAPER,
                schema.TABLE, schema.CELL, schema.STAND_INS, schema.SCALED, schema.REUSED_FROM}  # fmt: skip


def find_reusable(specs: Sequence[RunSpec], tracking_uri: str) -> list[RunRecord | None]:
    """For each spec the record of its finished or diverged run, or None when it has to be trained.

    A run that finished under another experiment or arm with the same hash is copied into this one, with its metrics,
    scores and artifacts except weights, and a tag that names the original.

    Raises:
        TrackingError: the store fails.
    """
    done = find_done(tracking_uri, {spec.hash for spec in specs})
    return [_own_or_copied(spec, done.get(spec.hash, []), tracking_uri) for spec in specs]


def _own_or_copied(spec: RunSpec, done: list[RunRecord], tracking_uri: str) -> RunRecord | None:
    own = [record for record in done if (record.experiment, record.arm) == (spec.experiment, spec.arm)]
    if own:
        return own[-1]
    if not done:
        return None
    originals = [record for record in done if schema.REUSED_FROM not in record.tags]
    return copy_record((originals or done)[0], spec, tracking_uri)


def copy_record(source: RunRecord, spec: RunSpec, tracking_uri: str) -> RunRecord:
    """Record `spec` as done by copying `source`, a run of the same hash in the same store.

    Raises:
        ValueError: the hashes differ.
        TrackingError: the store fails.
    """
    if source.hash != spec.hash:
        raise ValueError(f"run {source.run_id} has hash {source.hash}, {spec.run_name} has {spec.hash}")
    history = read_history(tracking_uri, source.run_id, list(source.metrics))
    points = [(key, p.value, p.time_ms, p.step) for key, series in history.items() for p in series]
    kept = {key: value for key, value in source.tags.items() if key not in _OF_THE_SPEC and key != "mlflow.runName"}
    tags = kept | spec_tags(spec) | {schema.REUSED_FROM: source.run_id, schema.STATUS: schema.RUNNING}
    writer = RunWriter(RunKey(tracking_uri, spec.experiment, schema.RUN_KIND, spec.hash, spec.arm))
    with tracking_errors(tracking_uri):
        writer.apply(operations.create(spec.run_name, tags) | {"start_ms": source.start_time})
        writer.apply(operations.params(spec_params(spec)))
        writer.apply(operations.metrics(points))
        folder = operations.local_folder(source.artifact_uri)
        for item in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
            if item.name != schema.WEIGHTS_DIR:
                writer.apply(operations.artifact(item, item.name if item.is_dir() else ""))
        # Last, so that a copy cut short is not taken for a finished run.
        writer.apply(operations.tags({schema.STATUS: source.status}))
        end = {"end_ms": source.end_time or operations.now_ms()}
        writer.apply(operations.status(schema.MLFLOW_STATUS[source.status], end=True) | end)
    records = read_records(tracking_uri, spec.experiment)
    return next(record for record in records if record.run_id == writer.run_id)
