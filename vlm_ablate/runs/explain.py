"""Why a run is reused or not: what its keys cover, and in what it differs from the nearest result that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_ablate.home import Home
from vlm_ablate.runs.fingerprints import differences
from vlm_ablate.runs.folder import Keyed, ScoreFolder, StageFolder
from vlm_ablate.runs.keys import ScoreKey, StageKey
from vlm_ablate.runs.results import find_stages, is_finished
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema


@dataclass(frozen=True)
class Explained:
    """One stage or score of a run."""

    what: str
    """`stage pretrain`, `score vqav2`, `score vqav2 (blind)`."""
    key: str
    folder: str | None
    """Where it is; None when it is not there."""
    state: str
    """finished, diverged, `begun`, or missing."""
    where: str = ""
    """Machine and time at which it was computed."""
    nearest: str | None = None
    """Of what is missing: the folder of the most similar result of its kind."""
    differing: tuple[tuple[str, Any, Any], ...] = ()
    """(field or file, here, there): in what the nearest differs."""


def explain(spec: RunSpec, home: Home) -> list[Explained]:
    """Every stage and score of a run, in the order in which they are computed."""
    stages = find_stages(spec, home)
    told = [_stage(key, stages[i] if i < len(stages) else None, home) for i, key in enumerate(spec.stage_keys)]
    last = stages[-1] if len(stages) == len(spec.stage_keys) and is_finished(stages[-1]) else None
    return told + [_score(key, last) for key in spec.score_keys]


def _stage(key: StageKey, folder: StageFolder | None, home: Home) -> Explained:
    what = f"stage {key.name}"
    outcome = folder.outcome() if folder else None
    if folder is not None and outcome is not None:
        return Explained(what, key.key, folder.root.name, str(outcome["status"]), _where(outcome))
    state = "begun" if folder else "missing"
    depth = len(key.inputs["stages"])  # 0 of a checkpoint that is scored as it is
    others = [f for root in _folders(home.stages) if (f := StageFolder(root)).outcome() and _depth(f) == depth]
    near = _nearest(key.inputs, key.fingerprints(home), others)
    return Explained(what, key.key, folder.root.name if folder else None, state, "", *near)


def _score(key: ScoreKey, last: StageFolder | None) -> Explained:
    mode = {"seen": "", "blind": " (blind)", "described": " (in words)"}[key.mode]
    what = f"score {key.column}{mode}"
    if last is None:
        return Explained(what, key.key, None, "missing")
    folder = last.score(key.key, key.fingerprints())
    outcome = folder.outcome()
    if outcome is not None:
        return Explained(what, key.key, folder.root.name, "finished", _where(outcome))
    others = [f for root in _folders(last.scores) if (f := ScoreFolder(root)).outcome()]
    near = _nearest(key.inputs, key.fingerprints(), others)
    return Explained(what, key.key, None, "missing", "", *near)


def _where(outcome: Mapping[str, Any]) -> str:
    from datetime import datetime

    made = outcome.get("provenance", {})
    machine = made.get(schema.MACHINE, "") if isinstance(made, dict) else ""
    ended = outcome.get("ended_ms")
    time = datetime.fromtimestamp(int(ended) / 1000).strftime("%Y-%m-%d %H:%M") if ended else ""
    return ", ".join(part for part in (time, str(machine)) if part)


def _folders(parent: Any) -> Iterator[Any]:
    return (root for root in sorted(parent.iterdir()) if root.is_dir()) if parent.is_dir() else iter(())


def _depth(folder: StageFolder) -> int:
    manifest = folder.manifest() or {}
    stages = manifest.get("inputs", {}).get("stages", [])
    return len(stages) if isinstance(stages, list) else 0


def _nearest(
    inputs: Mapping[str, Any], prints: Mapping[str, str], others: list[Any]
) -> tuple[str | None, tuple[tuple[str, Any, Any], ...]]:
    """The folder whose manifest differs in the fewest fields, and those."""
    best: tuple[str | None, tuple[tuple[str, Any, Any], ...]] = (None, ())
    for folder in others:
        found = _differing(inputs, prints, folder)
        if best[0] is None or len(found) < len(best[1]):
            best = (folder.root.name, found)
    return best


def _differing(inputs: Mapping[str, Any], prints: Mapping[str, str], other: Keyed) -> tuple[tuple[str, Any, Any], ...]:
    manifest = other.manifest() or {}
    here, there = dict(_leaves(inputs)), dict(_leaves(manifest.get("inputs", {})))
    fields = [(k, here.get(k), there.get(k)) for k in dict.fromkeys([*here, *there]) if here.get(k) != there.get(k)]
    theirs = manifest.get("fingerprints", {})
    files = [(f"files of {what}", prints[what], theirs[what]) for what in differences(prints, theirs)]
    return (*fields, *files)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, plain value) of nested mappings and lists."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, below in enumerate(value):
            yield from _leaves(below, f"{path}[{number}]")
    else:
        yield path, value
