"""Arms as a diff of the base, and warnings where a comparison of arms would not be fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_ablate.config.compose import flatten
from vlm_ablate.config.decides import dump
from vlm_ablate.config.document import Path_
from vlm_ablate.config.places import is_component
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import collapsed

ABSENT = "(none)"
"""Stands for a field that one side does not have, e.g. of another connector."""

@dataclass(frozen=True)
class Change:
    """One field in which an arm differs from the base."""

    path: str
    base: Any
    arm: Any


def arm_diff(base: RunConfig, arm: RunConfig) -> list[Change]:
    """The fields in which `arm` differs from `base`, in the order of the file.

    Where a part was exchanged for another, that is one change (the part's name) and what the new part sets itself.
    What changes in the data of all stages is one change of `data`.
    """
    old, new = flatten(base.model_dump(mode="json")), flatten(arm.model_dump(mode="json"))
    exchanged = {p[:-1] for p in new if p[-1] == "name" and p in old and old[p] != new[p] and is_component(p[:-1])}
    changes: dict[Path_, tuple[Any, Any]] = {}
    for path in dict.fromkeys([*new, *old]):
        inside = any(path[: len(part)] == part for part in exchanged)
        if inside and path not in new:
            continue
        before, after = old.get(path, ABSENT), new.get(path, ABSENT)
        if inside and path[-1] != "name":
            before = ABSENT
            if after == _default(arm, path):
                continue
        if before != after:
            changes[path] = (before, after)
    stages = dict.fromkeys([*base.stages, *arm.stages])
    return [Change(".".join(path), *pair) for path, pair in collapsed(changes, stages).items()]


def _default(config: RunConfig, path: Path_) -> Any:
    """The default of the field at `path`; ABSENT if it has none or stands deeper than a part's own fields."""
    holder: Any = config
    for key in path[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else getattr(holder, key, None)
    field = getattr(type(holder), "model_fields", {}).get(path[-1])
    return ABSENT if field is None or field.is_required() else field.get_default(call_default_factory=True)


def fairness_warnings(arms: Mapping[str, RunConfig], factor: Sequence[str]) -> list[str]:
    """Where arms differ outside the declared factor, and where they do not see the same amount of data.

    A part that was exchanged for another is told once, by its name. Tokens and trainable parameters follow from the
    model and are compared by `plan`.
    """
    flats = {name: _deciding(config) for name, config in arms.items()}
    patterns = [place for dotted in factor for place in _covered(tuple(dotted.split(".")))]
    stages = list(dict.fromkeys(stage for config in arms.values() for stage in config.stages))
    exchanged: list[Path_] = []
    found: dict[Path_, dict[str, list[str]]] = {}
    for path in dict.fromkeys(path for flat in flats.values() for path in flat):
        if any(path[: len(part)] == part for part in exchanged):
            continue
        groups = group_by_value({name: flat.get(path, ABSENT) for name, flat in flats.items()})
        if len(groups) > 1:
            found[path] = groups
            if path[-1] == "name" and is_component(path[:-1]):
                exchanged.append(path[:-1])
    warnings = [
        f"{'.'.join(path)} differs between arms, outside the declared factor: {groups_text(groups)}"
        for path, groups in collapsed(found, stages).items()
        if not all(any(_covers(p, full) for p in patterns) for full in _everywhere(path, stages))
    ]
    return warnings + _budget(arms)


def _deciding(config: RunConfig) -> dict[Path_, Any]:
    """What decides the result, by path; a part's name comes before its fields."""
    flat = flatten(dump(config, "training")) | flatten(dump(config, "score"))
    return dict(sorted(flat.items(), key=lambda item: item[0][-1] != "name"))


def _everywhere(path: Path_, stages: Sequence[str]) -> list[Path_]:
    """The places that a path as people read it stands for."""
    return [("stages", stage, *path) for stage in stages] if path[0] == "data" else [path]


def _covered(factor: Path_) -> list[Path_]:
    """A factor below `data` covers every stage's."""
    return [factor, ("stages", "*", *factor)] if factor[0] == "data" else [factor]


def _budget(arms: Mapping[str, RunConfig]) -> list[str]:
    """Optimiser steps and sequences, over all stages: what every arm of a fair comparison shares."""
    steps = {n: sum(s.steps for s in c.stages.values()) for n, c in arms.items()}
    sequences = {n: sum(s.steps * s.batch_size for s in c.stages.values()) for n, c in arms.items()}
    warnings: list[str] = []
    for what, values in (("optimiser steps", steps), ("training sequences", sequences)):
        groups = group_by_value(values)
        if len(groups) > 1:
            warnings.append(f"the arms do not train on the same number of {what}: {groups_text(groups)}")
    return warnings


def group_by_value(values: dict[str, Any]) -> dict[str, list[str]]:
    """Value as text -> the arms that have it."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    return groups


def groups_text(groups: dict[str, list[str]]) -> str:
    """`6000 (a, b) against 3000 (c)`."""
    return " against ".join(f"{value} ({', '.join(arms)})" for value, arms in groups.items())


def _covers(pattern: Path_, path: Path_) -> bool:
    return len(pattern) <= len(path) and all(p in ("*", q) for p, q in zip(pattern, path, strict=False))
