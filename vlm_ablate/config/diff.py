"""Arms as a diff of the base, and warnings where a comparison of arms would not be fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_ablate.config.compose import flatten
from vlm_ablate.config.decides import dump
from vlm_ablate.config.document import Path_
from vlm_ablate.config.places import component_places, is_component
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import collapsed

ABSENT = "(none)"
"""Stands for a field that one side does not have, e.g. of another connector."""

Groups = dict[str, list[str]]
"""Value as text -> the arms that have it."""


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

    Whoever declares `stages` as a whole compares other numbers of stages, and so of steps, on purpose.

    One text for a part, whether it was exchanged or set otherwise, and one for a stage, source or column that only
    some arms have. Tokens and trainable parameters follow from the model and are compared by `plan`.
    """
    flats = {name: _deciding(config) for name, config in arms.items()}
    patterns = [place for dotted in factor for place in _covered(tuple(dotted.split(".")))]
    stages = list(dict.fromkeys(stage for config in arms.values() for stage in config.stages))
    outside = {
        path: groups
        for path, groups in collapsed(_differing(flats), stages).items()
        if not all(any(_covers(p, full) for p in patterns) for full in _everywhere(path, stages))
    }
    warnings = [
        f"{'.'.join(path)} differs between arms, outside the declared factor: {groups_text(groups)}"
        for path, groups in _by_part(outside).items()
    ]
    return warnings + ([] if "stages" in factor else _budget(arms))


def _differing(flats: Mapping[str, dict[Path_, Any]]) -> dict[Path_, Groups]:
    """Where arms differ: the path of a field, or of what some arms do not have at all.

    Of a part that was exchanged, its name, and the fields in which arms with the same part differ.
    """
    stand = {name: {path[:end] for path in flat for end in range(1, len(path))} for name, flat in flats.items()}
    lacking: list[Path_] = []
    names: dict[Path_, dict[str, Any]] = {}
    found: dict[Path_, Groups] = {}
    for path in dict.fromkeys(path for flat in flats.values() for path in flat):
        if any(path[: len(entry)] == entry for entry in lacking):
            continue
        entry = next((e for e in _entries(path) if any(e not in prefixes for prefixes in stand.values())), None)
        if entry is not None:
            lacking.append(entry)
            found[entry] = group_by_value({name: _told(flat, entry) for name, flat in flats.items()})
            continue
        values = {name: flat.get(path, ABSENT) for name, flat in flats.items()}
        if path[-1] == "name" and is_component(path[:-1]):
            names[path[:-1]] = values
        part = next((chosen for at, chosen in names.items() if path[: len(at)] == at and path != (*at, "name")), {})
        pairs = {(str(part.get(name)), str(value)) for name, value in values.items()}
        if len(pairs) > len({chosen for chosen, _ in pairs}):  # it differs among arms with one part
            found[path] = group_by_value(values)
    return found


def _entries(path: Path_) -> list[Path_]:
    """The stages, sources and columns that a path stands in, the outermost first."""
    ends = {
        place.index("*", start) + 1
        for place in component_places()
        for start in range(len(place))
        if "*" in place[start:] and _covers(place[: place.index("*", start) + 1], path)
    }
    return [path[:end] for end in sorted(ends)]


def _told(flat: Mapping[Path_, Any], entry: Path_) -> str:
    """What is said of a stage, source or column: the part that stands in it, if there is one."""
    inside = [path for path in flat if path[: len(entry)] == entry]
    parts = [p for p in inside if len(p) == len(entry) + 2 and p[-1] == "name" and is_component(p[:-1])]
    return str(flat[parts[0]]) if parts else "there" if inside else ABSENT


def _by_part(found: Mapping[Path_, Groups]) -> dict[Path_, Groups]:
    """Differing fields of one part taken together: `latents 64, depth 3`."""
    by_part: dict[Path_, list[Path_]] = {}
    for path in found:
        part = next((path[:end] for end in range(1, len(path)) if is_component(path[:end])), path)
        by_part.setdefault(part, []).append(path)
    result: dict[Path_, Groups] = {}
    for part, paths in by_part.items():
        if len(paths) == 1:
            result[paths[0]] = found[paths[0]]
            continue
        texts: dict[str, list[str]] = {}
        for path in paths:
            field = "" if path[-1] == "name" and len(path) == len(part) + 1 else f"{'.'.join(path[len(part):])} "
            for value, arms in found[path].items():
                for arm in arms:
                    texts.setdefault(arm, []).extend([f"{field}{value}"] if value != ABSENT else [])
        result[part] = group_by_value({arm: ", ".join(words) for arm, words in texts.items()})
    return result


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


def group_by_value(values: Mapping[str, Any]) -> Groups:
    """The values as texts, each with the arms that have it, in the order of the arms."""
    groups: Groups = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    return groups


def groups_text(groups: Groups) -> str:
    """`6000 (a, b) against 3000 (c)`."""
    return " against ".join(f"{value} ({', '.join(arms)})" for value, arms in groups.items())


def _covers(pattern: Path_, path: Path_) -> bool:
    return len(pattern) <= len(path) and all(p in ("*", q) for p, q in zip(pattern, path, strict=False))
