"""One `data` section for all stages: put into each of them for the code, and taken together again for readers.

A file writes `data:` once; composition merges it under each stage's own `data`. In a diff (an arm's `set`, a scale's
`overrides`, a setting of the command line) `data.x` means x in every stage's data, and `stages.NAME.data.x` one
stage's. What people read shows `data.x` where all stages agree, and what only the evaluation does otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from vlm_ablate.config.compose import flatten, merge, merged
from vlm_ablate.config.document import Path_
from vlm_ablate.config.run_config import RunConfig

V = TypeVar("V")

SECTIONS = tuple(dict.fromkeys(["model", *RunConfig.written_beside, *RunConfig.model_fields]))
"""Sections of a file that say what a run is."""


def composed(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A file's sections with its `data` merged under each stage's own, without stages and benchmarks that are null.

    `data` stays, for stages that a diff brings.
    """
    there = _without_null(sections)
    stages, default = there.get("stages"), there.get("data")
    if not isinstance(stages, Mapping):
        return there
    return {**there, "stages": {name: _with_data(stage, stage, default, name) for name, stage in stages.items()}}


def apply_diff(sections: Mapping[str, Any], diff: Mapping[str, Any]) -> dict[str, Any]:
    """Composed sections with a diff merged over them: its `data` into every stage, then all else."""
    result = dict(sections)
    stages = sections.get("stages")
    if "data" in diff:
        result["data"] = merged(sections.get("data"), diff["data"], ("data",))
        if isinstance(stages, Mapping):
            result["stages"] = {name: _changed(stage, diff["data"], name) for name, stage in stages.items()}
    result = merge(result, {key: value for key, value in diff.items() if key != "data"})
    own = diff.get("stages")
    if isinstance(own, Mapping) and isinstance(result.get("stages"), dict):
        for name, stage in own.items():
            if name in result["stages"] and _is_new(name, stages, own):
                result["stages"][name] = _with_data(result["stages"][name], stage, result.get("data"), name)
    return result


def run_data(sections: Mapping[str, Any]) -> dict[str, Any]:
    """What `RunConfig` validates: composed sections without what only a file has, stages and benchmarks that are null.
    """
    return _without_null({key: value for key, value in sections.items() if key not in RunConfig.written_beside})


def _without_null(sections: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(sections)
    if isinstance(stages := data.get("stages"), Mapping):
        data["stages"] = {name: stage for name, stage in stages.items() if stage is not None}
    evaluation = data.get("evaluation")
    if isinstance(evaluation, Mapping) and isinstance(asked := evaluation.get("benchmarks"), Mapping):
        kept = {name: entry for name, entry in asked.items() if entry is not None}
        data["evaluation"] = {**evaluation, "benchmarks": kept}
    return data


def _is_new(name: str, before: Any, diff: Mapping[str, Any]) -> bool:
    replaced = any(isinstance(at, Mapping) and at.get("replace") is True for at in (diff, diff[name]))
    return replaced or not isinstance(before, Mapping) or name not in before


def _with_data(stage: Any, written: Any, default: Any, name: str) -> Any:
    """The stage with the data that is `written` for it over the default."""
    if not isinstance(stage, Mapping) or not isinstance(written, Mapping):
        return stage
    path = ("stages", str(name), "data")
    data = merged(default, written["data"], path) if written.get("data") is not None else default
    return {**stage, "data": data} if data is not None else stage


def _changed(stage: Any, data: Any, name: str) -> Any:
    if not isinstance(stage, Mapping):
        return stage
    return {**stage, "data": merged(stage.get("data"), data, ("stages", str(name), "data"))}


def spread(path: Path_) -> list[Path_]:
    """The places of a run's configuration that a dotted path of a diff or a scale means; `*` stands for every name."""
    if path[:1] != ("data",):
        return [path]
    places: list[Path_] = [("stages", "*", *path)]
    if path == ("data", "image", "size"):
        places.append(("stages", "*", "data", "climb", "*"))
    if path[1:2] == ("image",):
        places += [("evaluation", *path[1:]), ("evaluation", "benchmarks", "*", *path[1:])]
    return places


def spellings(path: Path_) -> list[Path_]:
    """The paths under which a file may have written what stands at `path` of a run's configuration."""
    return [path, path[2:]] if path[:1] == ("stages",) and path[2:3] == ("data",) else [path]


def covers(written: Path_, path: Path_) -> bool:
    """Whether a path as it is written, `*` standing for any name, is `path`, or one above or below it."""
    return all(key in ("*", part) for key, part in zip(written, path, strict=False))


def collapsed(flat: Mapping[Path_, V], stages: Iterable[str]) -> dict[Path_, V]:
    """Values (or changes, or notes) by path as people read them.

    `stages.NAME.data.x` is once `data.x` where it is the same for all `stages`; what the evaluation has from the last
    stage, and a benchmark from the evaluation, is left out.
    """
    names = list(stages)
    found: dict[Path_, dict[str, V]] = {}
    for path, value in flat.items():
        if _in_stage_data(path):
            found.setdefault(path[3:], {})[path[1]] = value
    shared = {
        rest: next(iter(values.values()))
        for rest, values in found.items()
        if set(values) >= set(names) and all(value == next(iter(values.values())) for value in values.values())
    }
    head = {path: value for path, value in flat.items() if path[0] == "model"}
    body = {path: value for path, value in flat.items() if path[0] != "model" and not _is_told(path, flat, names)}
    kept = {path: value for path, value in body.items() if not (_in_stage_data(path) and path[3:] in shared)}
    return head | {("data", *rest): value for rest, value in shared.items()} | kept


def short(config: RunConfig) -> dict[str, Any]:
    """A run's configuration as plain data as people read it; see `collapsed`."""
    result: dict[str, Any] = {}
    for path, value in collapsed(flatten(config.model_dump(mode="json")), config.stages).items():
        at = result
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = value
    return result


def _in_stage_data(path: Path_) -> bool:
    return len(path) > 3 and path[0] == "stages" and path[2] == "data"


def _is_told(path: Path_, flat: Mapping[Path_, Any], stages: list[str]) -> bool:
    """Whether a value of the evaluation is the one that it has from elsewhere."""
    if path[0] != "evaluation":
        return False
    if path[1] in ("image", "prompt") and stages:
        origin: Path_ = ("stages", stages[-1], "data", *path[1:])
    elif path[1] == "benchmarks" and path[3:4] == ("image",):
        origin = ("evaluation", *path[3:])
    else:
        return False
    return origin in flat and bool(flat[origin] == flat[path])
