"""Results written as a run writes them, without training: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_ablate.home import Home
from vlm_ablate.runs.folder import StageFolder, find_stage
from vlm_ablate.runs.keys import ScoreKey
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.origin import provenance_tags

Points = Sequence[tuple[int, Mapping[str, float]]]


def write_log(spec: RunSpec, home: Home, points: Points) -> StageFolder:
    """The last stage as begun, with these metrics."""
    stage: StageFolder | None = None
    for key in spec.stage_keys:
        before = stage.root.name if stage else None
        stage = find_stage(home, key.key, key.fingerprints(home), before)
        if stage.manifest() is None:
            stage.describe(
                {"stage": key.name, "before": before, "inputs": key.inputs, "fingerprints": key.fingerprints(home)}
            )
        if key is not spec.stage_keys[-1]:
            stage.end({"status": "finished", "seen": {}})
    assert stage is not None
    for step, values in points:
        Log(stage.log).add(values, step)
    note_attempt(spec, home, "running")
    return stage


def write_results(
    spec: RunSpec,
    home: Home,
    *,
    status: str = "finished",
    score: float = 50.0,
    blind: float = 10.0,
    points: Points = ((10, {schema.TRAIN_LOSS: 2.0}),),
    message: str = "",
    record: Callable[[ScoreKey, float], dict[str, Any]] | None = None,
    **stage_outcome: Any,
) -> Results:
    """A run that has ended; every benchmark scores `score`, and `blind` without images.

    Args:
        record: makes the record of a score; None: `score_record`.
    """
    made_of = score_record if record is None else record
    stage = write_log(spec, home, points)
    if status in schema.DONE:
        times = {"started_ms": 1_000_000 + spec.seed, "ended_ms": 2_000_000 + spec.seed, "seconds": 1.0}
        made = {"provenance": provenance_tags(), "data_fingerprint": "f00", "sizes": {schema.PARAMS_TOTAL: 7.0}}
        stage.end({"status": status, "message": message, "seen": {}, **times, **made, **stage_outcome})
    if status == "finished":
        for key in spec.score_keys:
            folder = stage.score(key.key, key.fingerprints())
            folder.describe({"inputs": key.inputs, "fingerprints": key.fingerprints()})
            folder.end(made_of(key, blind if key.mode == "blind" else score))
    note_attempt(spec, home, status, message)
    return find_results(spec, home)


def score_record(key: ScoreKey, score: float) -> dict[str, Any]:
    """A score record as an evaluation gives it."""
    return {
        "benchmark": key.inputs["benchmark"]["name"], "column": key.column, "split": "report", "split_hash": "abc",
        "template": "vqa/1", "shots": 4, "demonstration_seed": 0, "scorer": "accuracy", "scorer_version": "1",
        "items": 300, "unparsed": 0, "score": score, "blind": key.mode == "blind", "demonstrations": "random",
        "described": key.mode == "described",
    }  # fmt: skip
