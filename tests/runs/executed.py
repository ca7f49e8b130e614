"""What a run that was executed left, and whether two left the same."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from vlm_ablate.events import RunStarted
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.log import read_log
from vlm_ablate.runs.results import find_results, find_stages
from vlm_ablate.runs.view import record_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.read import read_records


def stages(home: Home, spec) -> tuple[StageFolder, ...]:
    return find_stages(spec, home)


def weights(home: Home, spec) -> dict[str, torch.Tensor]:
    return load_file(stages(home, spec)[-1].weights)


def predictions(home: Home, spec) -> dict[str, bytes]:
    """Answers of the scores and of the points of the curve."""
    files = [p for stage in stages(home, spec) for p in sorted(stage.root.rglob("*.jsonl")) if p.name != "log.jsonl"]
    return {str(p.relative_to(home.stages)): p.read_bytes() for p in files}


def logged(home: Home, spec) -> list[tuple[int, dict[str, float]]]:
    """Everything that was logged but how fast it went."""
    entries = [entry for stage in stages(home, spec) for entry in read_log(stage.log)]
    by_clock = {schema.TRAIN_TOKENS_PER_S, schema.WAITING}
    return [(e.step, {k: v for k, v in e.values.items() if k not in by_clock}) for e in entries]


def last_record(home, spec):
    return next(r for r in read_records(home.tracking_uri, spec.experiment) if r.id == spec.id)


def assert_same_result(mine, theirs):
    ours, others = weights(*mine), weights(*theirs)
    assert ours.keys() == others.keys()
    assert not [name for name in ours if not torch.equal(ours[name], others[name])]
    assert predictions(*mine) == predictions(*theirs)
    assert logged(*mine) == logged(*theirs)


def assert_continues(home: Home, straight, step: int) -> None:
    """The unfinished run is recorded as such; continued from `step` it gives what the uninterrupted one gave."""
    _, spec, outcome, _ = straight
    record = record_of(find_results(spec, home))
    assert (record.status, record.scores) == ("running", [])
    events = []
    assert execute(spec, home=home, reporter=events.append).scores == outcome.scores
    ends = [stage.root / f"checkpoint-{steps}-" for stage, steps in zip(stages(home, spec), (12, 4), strict=True)]
    kept = [str(p) for p in home.stages.rglob("checkpoint-*")]
    assert len(kept) == 2 and all(any(p.startswith(str(end)) for p in kept) for end in ends)
    assert next(e for e in events if isinstance(e, RunStarted)).resumed_step == step
    assert_same_result((home, spec), straight[:2])
    assert len(read_records(home.tracking_uri, spec.experiment)) == 1
