"""What a reader is told of a run at a scale: what stands in for which part, and which values are others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vlm_ablate.config.base import Strict
from vlm_ablate.config.compose import flatten
from vlm_ablate.config.document import Path_
from vlm_ablate.config.places import component_places
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.scale import Scale, StandIn
from vlm_ablate.config.shared_data import collapsed


@dataclass(frozen=True)
class Scaled:
    """A run's configuration at a scale, as plain data, and what a reader must be told about it, by full path."""

    config: dict[str, Any]
    stand_ins: dict[Path_, str] = field(default_factory=dict)
    values: dict[Path_, str] = field(default_factory=dict)
    missing: dict[Path_, str] = field(default_factory=dict)
    """Parts of the hub for which the scale has no stand-in."""

    def told(self, notes: dict[Path_, str]) -> dict[str, str]:
        """Notes by dotted path, those that hold for all stages once."""
        stages = self.config.get("stages")
        names = [name for name, stage in stages.items() if stage is not None] if isinstance(stages, dict) else []
        return {".".join(path): note for path, note in collapsed(notes, names).items()}


def relabelled(scaled: Scaled, final: dict[str, Any]) -> Scaled:
    """The same notes for a configuration that settings changed afterwards: a part set by hand is the stand-in now, and
    of what settings left out nothing is told."""
    stand_ins = told_anew(scaled.stand_ins, scaled.config, final, " (set by hand)")
    there = {path: v.partition(" -> ")[0] for path, v in scaled.values.items() if _is_there(final, path)}
    sides = {path: (paper, said(value_at(final, path))) for path, paper in there.items()}
    values = {path: f"{paper} -> {ours}" for path, (paper, ours) in sides.items() if paper != ours}
    return Scaled(final, stand_ins, values, as_they_were(scaled.missing, scaled.config, final))


def told_anew(
    notes: dict[Path_, str], before: dict[str, Any], after: dict[str, Any], why: str = ""
) -> dict[Path_, str]:
    """Notes of stand-ins for a configuration that was changed afterwards: of what is gone none, of another part its
    name."""
    told: dict[Path_, str] = {}
    for path, note in notes.items():
        old, new = (_parts_at(config, path) for config in (before, after))
        if new:
            same = old == new if why else _names_of(old) == _names_of(new)
            told[path] = note if same else f"{note.partition(' -> ')[0]} -> {_names_of(new)}{why}"
    return told


def as_they_were(notes: dict[Path_, str], before: dict[str, Any], after: dict[str, Any]) -> dict[Path_, str]:
    """The notes of parts that nothing changed afterwards."""
    return {path: note for path, note in notes.items() if value_at(before, path) == value_at(after, path)}


def _parts_at(config: dict[str, Any], path: Path_) -> dict[str, Any]:
    """The part at a path, or those of a mixture or of the benchmarks by name, as far as they are parts."""
    value = value_at(config, path)
    key = next((place[-1] for place in component_places() if place[-3:-1] == (path[-1], "*")), None)
    entries = value.items() if isinstance(value, dict) else ()
    parts = {"": value} if key is None else {str(name): value_at(entry, (key,)) for name, entry in entries}
    return {name: part for name, part in parts.items() if identities(part)}


def _names_of(parts: dict[str, Any]) -> str:
    return " + ".join(dict.fromkeys(identities(part)[0] for part in parts.values()))


def _is_there(data: Any, path: Path_) -> bool:
    holder = value_at(data, path[:-1])
    return isinstance(holder, dict) and path[-1] in holder


def label(part: dict[str, Any], stand_in: StandIn) -> str:
    """`PART -> WHAT STANDS IN FOR IT`, with the note of the scale."""
    use = dict(stand_in.use)
    name = use.pop("name", "") if "id" not in use else use.pop("id")
    detail = "".join(f", {k} {v}" for k, v in use.items() if isinstance(v, str | int | float) and k != "name")
    return f"{identities(part)[0]} -> {name}{detail}" + (f" ({stand_in.note})" if stand_in.note else "")


def label_replaced(before: dict[str, Any], after: dict[str, Any], scale: Scale, stand_ins: dict[Path_, str]) -> None:
    """Name the mixtures and the benchmarks that `overrides` exchanged as a whole."""
    for pattern in component_places():
        if pattern[-2] != "*":
            continue
        for _, _, path in every_place(before, pattern[:-2]):
            old, new = (_parts_at(config, path) for config in (before, after))
            told = {name for name in old if (*path, name, pattern[-1]) in stand_ins}
            if new and (set(old) != set(new) or any(old[n] != new[n] for n in set(old) - told)):
                stand_ins[path] = f"{_names_of(old)} -> {_names_of(new)}" + (f" ({scale.note})" if scale.note else "")


def changed(before: dict[str, Any], after: dict[str, Any], parts: tuple[Path_, ...]) -> dict[Path_, str]:
    """Path -> "old -> new" of the plain values that differ and decide a result, outside the exchanged parts."""
    old, new = _values(before), _values(after)
    unwritten = {path: None for path in new if path[0] == "stages" and path[2:3] == ("learning_rates",)}
    return {
        path: f"{said(value)} -> {said(new[path])}"
        for path, value in (unwritten | old).items()
        if path in new and value != new[path] and not any(path[: len(p)] == p for p in parts)
    }


def _values(config: dict[str, Any]) -> dict[Path_, Any]:
    """Plain values by path; a climb, whose steps are its keys, is one of them."""
    flat: dict[Path_, Any] = {}
    for path, value in flatten(config).items():
        if path[0] == "stages" and path[2:4] == ("data", "climb"):
            path, value = path[:4], value_at(config, path[:4])
        if path[0] != "data" and not _only_how(path):  # the file's `data` stands in every stage's
            flat[path] = value
    return flat


def _only_how(path: Path_) -> bool:
    """Whether a path lies in a section that decides no result."""
    kind = RunConfig.model_fields[path[0]].annotation if path[0] in RunConfig.model_fields else None
    return isinstance(kind, type) and issubclass(kind, Strict) and kind.decides == "execution"


def said(value: Any) -> str:
    """A value in YAML's words."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {said(part)}" for key, part in value.items())
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def identities(part: Any) -> list[str]:
    """The names by which a part is known: its hub id or path if it has one, then its registry name."""
    if not isinstance(part, dict):
        return [part] if isinstance(part, str) else []
    return [part[key] for key in ("id", "path_or_id", "name") if isinstance(part.get(key), str)]


def every_place(data: dict[str, Any], pattern: Path_, path: Path_ = ()) -> Iterator[tuple[dict[str, Any], str, Path_]]:
    """(mapping, key, path) of every existing place that a path with `*` names."""
    if not isinstance(data, dict):
        return
    for key in list(data) if pattern[0] == "*" else [k for k in data if str(k) == pattern[0]]:
        if len(pattern) == 1:
            yield data, key, (*path, str(key))
        else:
            yield from every_place(data[key], pattern[1:], (*path, str(key)))


def value_at(data: Any, path: Path_) -> Any:
    """The value at a path of nested mappings; None where nothing stands."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data
