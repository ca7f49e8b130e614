"""What a run uses to record itself: one top-level MLflow run per arm and seed, and one that carries the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_ablate.config.shared_data import short
from vlm_ablate.errors import TrackingError
from vlm_ablate.home import Home
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import operations, schema
from vlm_ablate.tracking.delivery import FLUSH_SECONDS, RETRY_SECONDS, Delivery
from vlm_ablate.tracking.operations import RunKey
from vlm_ablate.tracking.origin import provenance_tags
from vlm_ablate.tracking.store import ensure_store

CLOSE_SECONDS = 30.0
"""Time that the end of a run waits for the store before spooling."""


class RunTracker:
    """Records one RunSpec. Every method returns at once; a failing store is survived (records are spooled).

    As a context manager it is closed on the way out; without `finish` the run then counts as interrupted and is
    continued by the next `start` of the same spec.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._closed = False

    @classmethod
    def start(
        cls,
        spec: RunSpec,
        *,
        home: Home,
        tracking_uri: str | None = None,
        notice: Callable[[str], None] = lambda message: None,
        flush_seconds: float = FLUSH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> RunTracker:
        """Create the run of this spec, or continue an unfinished one; a store that is down is reported to `notice`.

        Check the store with `ensure_store` before anything expensive: this method starts offline rather than raise.
        """
        uri = tracking_uri or home.tracking_uri
        key = RunKey(uri, spec.experiment, schema.RUN_KIND, spec.hash, spec.arm)
        delivery = Delivery(key, home.run(spec.hash).root, notice, flush_seconds=flush_seconds,
                            retry_seconds=retry_seconds)  # fmt: skip
        with suppress(TrackingError):  # Then the first delivery fails in the same way, and is spooled.
            ensure_store(uri, notice)
        tags = spec_tags(spec) | provenance_tags() | {schema.STATUS: schema.RUNNING}
        delivery.start([operations.create(spec.run_name, tags), operations.params(spec_params(spec))])
        return cls(delivery)

    @property
    def run_id(self) -> str | None:
        """Id in the store; None while the store has not been reached."""
        return self._delivery.writer.run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Metrics at an optimiser step (or another count); delivered in batches."""
        for key, value in values.items():
            self._delivery.metric(key, value, step)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Params beside the flattened config; nested mappings become dotted paths."""
        self._delivery.send(operations.params(schema.flatten(values)))

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Tags; values that are not text are stored as JSON."""
        self._delivery.send(operations.tags(_as_tags(values)))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file, or the files of a folder, read when delivered: keep it unchanged until the run is over."""
        self._delivery.send(operations.artifact(Path(path), folder))

    def log_dataset(self, name: str, fingerprint: str, source: str = "") -> None:
        """A data set the run trains or is scored on."""
        self._delivery.send(operations.dataset(name, fingerprint, source or name))

    def log_scores(self, scores: Iterable[Any], step: int) -> None:
        """Final scores: the records as a tag (what tables read), and `score/*`, `score_blind/*` and means as metrics.

        Args:
            scores: ScoreRecords, or their dicts.
            step: Optimiser steps done when they were taken.
        """
        records = [score if isinstance(score, dict) else score.to_dict() for score in scores]
        self.log_metrics(score_metrics(records), step)
        self._delivery.send(operations.tags(schema.json_tag(schema.SCORES, records)))

    def finish(self, status: str, message: str = "", *, timeout: float = CLOSE_SECONDS) -> bool:
        """End the run with one of finished, diverged, failed, skipped. True when the store has everything."""
        tags = {schema.STATUS: status} | ({schema.MESSAGE: message[: schema.TAG_LIMIT]} if message else {})
        self._delivery.send(
            operations.tags(tags), operations.status(schema.MLFLOW_STATUS[status], end=status != schema.RUNNING)
        )
        self._closed = True
        return self._delivery.close(timeout)

    def close(self, *, timeout: float = CLOSE_SECONDS) -> bool:
        """End the recording of a run that is not over: it can be continued. Does nothing after `finish`."""
        if self._closed:
            return True
        self._closed = True
        # MLflow calls a run that nobody works on KILLED; our own tag still says running, so it is continued.
        self._delivery.send(operations.status("KILLED", end=True))
        return self._delivery.close(timeout)

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def record_failure(spec: RunSpec, message: str, *, home: Home, tracking_uri: str | None = None) -> None:
    """Record from outside that a run failed, e.g. when its process was killed and could not say so itself."""
    RunTracker.start(spec, home=home, tracking_uri=tracking_uri).finish(schema.FAILED, message)


def spec_tags(spec: RunSpec) -> dict[str, str]:
    """Tags that follow from the spec alone."""
    paper, _, table = (spec.paper or "").partition("_")
    tags = {
        schema.KIND: schema.RUN_KIND,
        schema.HASH: spec.hash,
        schema.ARM: spec.arm,
        schema.LABEL: spec.label,
        schema.SEED: str(spec.seed),
        schema.SCALE: spec.scale,
        schema.PAPER: paper,
        schema.TABLE: table,
        schema.DESCRIPTION: _description(spec),
    }
    tags |= schema.json_tag(schema.STAND_INS, spec.stand_ins) | schema.json_tag(schema.SCALED, spec.scaled)
    if spec.cell is not None:
        tags |= schema.json_tag(schema.CELL, spec.cell)
    return {key: value for key, value in tags.items() if value}


def spec_params(spec: RunSpec) -> dict[str, str]:
    """Arm, the paper's row, seed and scale, then the flattened config: the UI's columns and its compare view.

    That view opens with the first three params in the order of the alphabet that differ: so the row is `arm.*`.
    """
    first = {schema.PARAM_ARM: spec.arm, schema.PARAM_SEED: str(spec.seed), schema.PARAM_SCALE: spec.scale}
    first |= schema.flatten({schema.PARAM_ARM: spec.cell or {}})
    return first | schema.flatten(short(spec.config))


def score_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Score records -> metrics: one per column and the unweighted mean, with and without images."""
    values: dict[str, float] = {}
    for blind in (False, True):
        scores = {record["column"]: float(record["score"]) for record in records if bool(record["blind"]) == blind}
        values |= {schema.score_metric(column, blind=blind): score for column, score in scores.items()}
        if scores:
            values[schema.score_metric(schema.MEAN, blind=blind)] = sum(scores.values()) / len(scores)
    return values


def _description(spec: RunSpec) -> str:
    """What the run's page in the UI opens with."""
    lines = [f"**{spec.label}**, seed {spec.seed}, at scale `{spec.scale}`."]
    if spec.cell:
        lines += ["", "Stands for the paper's row: " + ", ".join(f"{k} = {v}" for k, v in spec.cell.items()) + "."]
    lines += ["", *(f"- `{path}`: {text}" for path, text in spec.stand_ins.items())]
    return "\n".join(lines)[: schema.TAG_LIMIT]


def _as_tags(values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= {key: value[: schema.TAG_LIMIT]} if isinstance(value, str) else schema.json_tag(key, value)
    return flat
