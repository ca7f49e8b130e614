"""Fields that stood elsewhere in earlier files: an error says where, and an earlier run's configuration is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_ablate.config.document import Path_
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import composed, run_data, short

_OF_STAGE = ("micro_batch_size", "gradient_checkpointing")
_OF_RUN = ("checkpoint_every", "log_every")
_OF_DATA = ("workers", "max_skipped")

MOVED: dict[Path_, str] = {
    **{("stages", "*", field): f"execution.{field}" for field in (*_OF_STAGE, *_OF_RUN)},
    **{("stages", "*", "data", field): f"execution.{field}" for field in _OF_DATA},
    **{("data", field): f"execution.{field}" for field in _OF_DATA},
    ("evaluation", "batch_size"): "execution.evaluation_batch_size",
}
"""Path, `*` standing for any name -> where the field stands now."""


def moved_to(path: Path_) -> str | None:
    """Where the field that stood at `path` stands now; None: it never stood there."""
    for old, new in MOVED.items():
        if len(old) == len(path) and all(a in ("*", b) or b == "*" for a, b in zip(old, path, strict=True)):
            return new
    return None


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's whole configuration, in the shape that it was recorded in, in the present one.

    It had one `data` for all stages, and how it was computed stood beside what it computed.
    """
    if "data" not in config:
        return dict(config)
    data, evaluation = dict(config["data"]), dict(config["evaluation"])
    stages = {name: dict(stage) for name, stage in config["stages"].items()}
    execution: dict[str, Any] = {field: data.pop(field) for field in _OF_DATA if field in data}
    if "batch_size" in evaluation:
        execution["evaluation_batch_size"] = evaluation.pop("batch_size")
    for field in (*_OF_STAGE, *_OF_RUN):
        values = {name: stage.pop(field) for name, stage in stages.items() if field in stage}
        first = next(iter(values.values()), None)
        if all(value == first for value in values.values()) or field in _OF_RUN:
            execution |= {field: first} if values else {}
            continue
        for name, value in values.items():
            execution.setdefault("stages", {}).setdefault(name, {})[field] = value
    sections = {**config, "data": data, "stages": stages, "evaluation": evaluation, "execution": execution}
    return run_data(composed(sections))


def recorded(config: RunConfig) -> dict[str, Any] | None:
    """The inverse of `upgraded`: the run in the shape in which earlier ones were recorded; None: that had no place for
    all of it (stages with data of their own, an evaluation that prepares images otherwise)."""
    plain, told = config.model_dump(mode="json"), short(config)
    if any("data" in stage for stage in told["stages"].values()) or {"image", "prompt"} & set(told["evaluation"]):
        return None
    evaluation = dict(plain["evaluation"])
    for key in ("image", "prompt"):
        evaluation.pop(key)
    own = {name: {k: v for k, v in e.items() if k != "image"} for name, e in evaluation["benchmarks"].items()}
    if any("image" in entry for entry in told["evaluation"]["benchmarks"].values()):
        return None
    how, stages = plain["execution"], {}
    for name, stage in plain["stages"].items():
        of_stage = config.execution.of_stage(name).model_dump(include={*_OF_STAGE, *_OF_RUN})
        stages[name] = {k: v for k, v in stage.items() if k != "data"} | of_stage
    data = dict(config.last_stage.data.model_dump(mode="json")) | {field: how[field] for field in _OF_DATA}
    evaluation |= {"benchmarks": own, "batch_size": how["evaluation_batch_size"]}
    return {"model": plain["model"], "data": data, "stages": stages, "evaluation": evaluation}
