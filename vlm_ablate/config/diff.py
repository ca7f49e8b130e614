"""Arms as a diff of the base, and warnings where a comparison of arms would not be fair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_ablate.config.compose import COMPONENTS, flatten
from vlm_ablate.config.document import Path_
from vlm_ablate.config.experiment import RunConfig

if TYPE_CHECKING:
    from vlm_ablate.config.expand import LoadedExperiment

ABSENT = "(none)"
"""Stands for a field that one side does not have, e.g. of another connector."""

_NO_EFFECT = ("micro_batch_size", "gradient_checkpointing", "checkpoint_every", "log_every", "workers")
"""Fields that change how a run computes, not what."""


@dataclass(frozen=True)
class Change:
    """One field in which an arm differs from the base."""

    path: str
    base: Any
    arm: Any


def arm_diff(base: RunConfig, arm: RunConfig) -> list[Change]:
    """The fields in which `arm` differs from `base`, in the order of the file.

    Where a part was exchanged for another, that is one change (the part's name) and what the new part sets itself.
    """
    old, new = flatten(base.model_dump(mode="json")), flatten(arm.model_dump(mode="json"))
    exchanged = {p[:-1] for p in new if p[-1] == "name" and p in old and old[p] != new[p] and _is_part(p[:-1])}
    changes: list[Change] = []
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
            changes.append(Change(".".join(path), before, after))
    return changes


def _default(config: RunConfig, path: Path_) -> Any:
    """The default of the field at `path`; ABSENT if it has none or stands deeper than a part's own fields."""
    holder: Any = config
    for key in path[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else getattr(holder, key, None)
    field = getattr(type(holder), "model_fields", {}).get(path[-1])
    return ABSENT if field is None or field.is_required() else field.get_default(call_default_factory=True)


def fairness_warnings(loaded: LoadedExperiment) -> list[str]:
    """Where the arms differ outside the declared factor, and where they do not see the same amount of data.

    Tokens and trainable parameters follow from the model and are compared by `plan`.
    """
    flats = {name: flatten(arm.config.model_dump(mode="json")) for name, arm in loaded.arms.items()}
    factor = [tuple(f.split(".")) for f in loaded.experiment.factor]
    paths = list(dict.fromkeys(path for flat in flats.values() for path in flat))
    warnings: list[str] = []
    for path in paths:
        if path[-1] in _NO_EFFECT or any(_covers(f, path) for f in factor):
            continue
        groups = group_by_value({name: flat.get(path, ABSENT) for name, flat in flats.items()})
        if len(groups) > 1:
            where = ".".join(path)
            warnings.append(f"{where} differs between arms, outside the declared factor: {groups_text(groups)}")
    return warnings + _budget(loaded)


def _budget(loaded: LoadedExperiment) -> list[str]:
    """Optimiser steps and sequences, over all stages: what every arm of a fair comparison shares."""
    steps = {n: sum(s.steps for s in a.config.stages.values()) for n, a in loaded.arms.items()}
    sequences = {n: sum(s.steps * s.batch_size for s in a.config.stages.values()) for n, a in loaded.arms.items()}
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


def _is_part(path: Path_) -> bool:
    return any(len(c.split(".")) == len(path) and _covers(tuple(c.split(".")), path) for c in COMPONENTS)
