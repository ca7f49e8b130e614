"""Runs as values. A table is computed from these and from nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlm_ablate.errors import TrackingError
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.names import original_name


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
    items: dict[str, list[float | None]] = field(default_factory=dict)
    """Column -> score of each item with images (0..1; None: not readable), in the benchmark's order; from the disk."""

    @property
    def kind(self) -> str:
        """`run` or `table`."""
        return self.tags.get(schema.KIND, schema.RUN_KIND)

    @property
    def id(self) -> str:
        """Id of the run: what it is and everything that decides its results (see `runs/spec.py`)."""
        return self.tags.get(schema.RUN, "")

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
        cell: dict[str, Any] | None = schema.read_json_tag(self.tags, schema.CELL)
        return cell

    @property
    def stand_ins(self) -> dict[str, str]:
        """Dotted path -> what stands in for what the paper names.

        Raises:
            TrackingError: the tag is no such mapping.
        """
        return self._texts(schema.STAND_INS)

    @property
    def scaled(self) -> dict[str, str]:
        """Dotted path -> the paper's value and the one that the scale put in its place.

        Raises:
            TrackingError: the tag is no such mapping.
        """
        return self._texts(schema.SCALED)

    def _texts(self, tag: str) -> dict[str, str]:
        found = schema.read_json_tag(self.tags, tag, {})
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise TrackingError(f"run {self.name!r}: its tag {tag} must be a JSON object of texts, not {found!r:.80}")
        return found


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
    """A record from what a store holds; the one place where tags are interpreted.

    Raises:
        TrackingError: a tag that somebody else wrote is of the wrong kind.
    """
    status = tags.get(schema.STATUS) or {"FINISHED": schema.FINISHED, "RUNNING": schema.RUNNING}.get(
        mlflow_status, schema.FAILED
    )
    try:
        seed = int(tags.get(schema.SEED, 0))
    except ValueError as error:
        wrong = f"its tag {schema.SEED} must be a whole number, not {tags[schema.SEED]!r}"
        raise TrackingError(f"run {name!r} ({run_id}) of {experiment}: {wrong}", hint="correct or delete it") from error
    return RunRecord(
        run_id=run_id,
        experiment=experiment,
        name=name or "",
        status=status,
        tags=dict(sorted(tags.items())),
        params={original_name(key): value for key, value in sorted(params.items())},
        # One NaN object, so that equal records compare equal.
        metrics={original_name(k): math.nan if math.isnan(value) else value for k, value in sorted(metrics.items())},
        arm=tags.get(schema.ARM, ""),
        seed=seed,
        scale=tags.get(schema.SCALE, ""),
        scores=schema.read_json_tag(tags, schema.SCORES, []),
        start_time=start_time or 0,
        end_time=end_time,
        artifact_uri=artifact_uri or "",
    )
