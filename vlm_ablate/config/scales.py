"""Scales: finding the file, and putting its stand-ins, values and overrides into one arm's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.base import Strict
from vlm_ablate.config.compose import flatten, load_document, merge_documents, nest
from vlm_ablate.config.document import Document, Path_, display
from vlm_ablate.config.places import component_places
from vlm_ablate.config.problems import problems_of
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.scale import Scale, StandIn
from vlm_ablate.config.shared_data import apply_diff, collapsed, spread
from vlm_ablate.config.shipped import shipped_experiments
from vlm_ablate.errors import ConfigError, UnknownNameError
from vlm_ablate.hub import is_path

PAPER = "paper"
"""The scale that changes nothing; it needs no file."""


@dataclass(frozen=True)
class LoadedScale:
    """A scale and the file it came from."""

    scale: Scale
    document: Document
    file: str

    def where(self, path: Path_) -> tuple[str, Path_]:
        """Where a value of the scale is written, and its path."""
        return _place(self.document, self.file, path)


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
        return {".".join(path): note for path, note in collapsed(notes, self.config["stages"] or ()).items()}


def scale_folders(beside: Path) -> list[Path]:
    """Folders that may hold scale files: `scales` and `experiments/scales` beside the file and in any folder above,
    then the package's."""
    parents = beside.resolve().parents if beside.suffix else [beside.resolve(), *beside.resolve().parents]
    places = [*parents, Path.cwd()]
    shipped = shipped_experiments()
    folders = [f for p in places for f in (p / "scales", p / "experiments" / "scales") if f.is_dir()]
    return list(dict.fromkeys([*folders, *([shipped / "scales"] if shipped else [])]))


def scale_files(beside: Path) -> dict[str, Path]:
    """Name -> file of every scale that an experiment file can use; the nearest folder wins."""
    files = [f for folder in scale_folders(beside) for f in sorted(folder.glob("*.yaml"))]
    return {f.stem: f for f in reversed(files) if not f.stem.startswith("_")}


def load_scale(name: str, beside: Path) -> LoadedScale:
    """The scale of that name, or of that path if it ends in .yaml or .yml.

    Raises:
        UnknownNameError: no such scale.
        ConfigError: the file is not a valid scale.
    """
    files = scale_files(beside)
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
    elif name in files:
        file = files[name]
    elif name == PAPER:
        return LoadedScale(Scale(name=PAPER), Document({}), PAPER)
    else:
        raise UnknownNameError("scale", name, {*files, PAPER})
    return read_scale(file)


def read_scale(file: Path) -> LoadedScale:
    """Validate one scale file.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    document = load_document(file)
    return _validated(Document({"name": file.stem, **document.data}, document.lines), display(file))


def scale_of(experiment: Document, loaded: LoadedScale) -> LoadedScale:
    """The scale with what an experiment's own `scales.NAME` says over it.

    Raises:
        ConfigError: everything that is wrong with the result.
    """
    scales = experiment.data.get("scales")
    own = scales.get(loaded.scale.name) if isinstance(scales, dict) else None
    if not isinstance(own, dict) or not own:
        return loaded
    prefix = ("scales", *loaded.scale.name.split("."))
    lines = {path[len(prefix) :]: at for path, at in experiment.lines.items() if path[: len(prefix)] == prefix}
    data = merge_documents(loaded.document.data or {"name": loaded.scale.name}, own)
    return _validated(Document(data, {**loaded.document.lines, **lines}), loaded.file)


def _validated(document: Document, shown: str) -> LoadedScale:
    try:
        return LoadedScale(Scale.model_validate(document.data), document, shown)
    except ValidationError as error:
        where = partial(_place, document, shown)
        raise ConfigError(problems_of(error, Scale, document.data, where)) from error


def _place(document: Document, shown: str, path: Path_) -> tuple[str, Path_]:
    return str(document.where(_split(path)) or shown), path


def apply_scale(config: dict[str, Any], scale: Scale) -> Scaled:
    """`config` (a composed run in the paper's words) at `scale`: stand-ins, values, overrides, and what is tuned."""
    result = deepcopy(config)
    stand_ins: dict[Path_, str] = {}
    missing: dict[Path_, str] = {}
    for pattern, registry in component_places().items():
        table = scale.stand_ins(registry)
        for holder, key, path in _places(result, pattern):
            part = holder[key]
            found = _stand_in(part, table)
            if found:
                holder[key] = dict(found.use)
                stand_ins[path] = _label(part, found)
            elif table and part.get("id") and not _is_here(part):
                missing[path] = part["id"]
    for dotted, mapping in scale.values.items():
        for place in spread(tuple(dotted.split("."))):
            for holder, key, _ in _places(result, place):
                holder[key] = _counterpart(holder[key], mapping)
    result = apply_diff(result, nest(scale.overrides))
    for tuned in scale.tuned:
        for stage in config["stages"]:  # `stages.*` is the same stage in what is asked and in what is set
            when = {_of_stage(path, stage): value for path, value in tuned.when.items()}
            then = {_of_stage(path, stage): value for path, value in tuned.set.items()}
            if all(_is_so(config, tuple(path.split(".")), value) for path, value in when.items()):
                result = apply_diff(result, nest(then))
    _climb_in_time(config, result)
    _label_replaced(config, result, scale, stand_ins)
    return Scaled(result, stand_ins, _changed(config, result, tuple(stand_ins)), missing)


def relabelled(scaled: Scaled, final: dict[str, Any]) -> Scaled:
    """The same notes for a configuration that settings changed afterwards: a part set by hand is the stand-in now."""
    stand_ins = dict(scaled.stand_ins)
    parts = {place[-1] for place in component_places()}
    for path, label in scaled.stand_ins.items():
        before, after = _at(scaled.config, path), _at(final, path)
        if before != after and path[-1] in parts:
            name = identities(after)[0] if identities(after) else str(after)
            stand_ins[path] = f"{label.partition(' -> ')[0]} -> {name} (set by hand)"
    sides = {path: (v.partition(" -> ")[0], _said(_at(final, path))) for path, v in scaled.values.items()}
    values = {path: f"{paper} -> {ours}" for path, (paper, ours) in sides.items() if paper != ours}
    return replace(scaled, stand_ins=stand_ins, values=values)


def _at(data: Any, path: Path_) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _climb_in_time(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Where the scale changed a stage's steps, its climb takes place at the same shares of them.

    What the scale made of a stage may be no stage: its check tells.
    """
    stages = after.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        was = before["stages"].get(name, {})
        climb = _at(stage, ("data", "climb"))
        if not isinstance(climb, dict) or not isinstance(stage["steps"], int):
            continue
        if climb and list(climb) == list(_at(was, ("data", "climb")) or ()):
            share = stage["steps"] / was["steps"]
            stage["data"]["climb"] = {str(round(int(step) * share)): size for step, size in climb.items()}


def identities(part: Any) -> list[str]:
    """The names by which a part is known: its hub id or path if it has one, then its registry name."""
    if not isinstance(part, dict):
        return [part] if isinstance(part, str) else []
    return [part[key] for key in ("id", "path_or_id", "name") if isinstance(part.get(key), str)]


def _stand_in(part: Any, table: dict[str, StandIn]) -> StandIn | None:
    """What stands in for a part: of the entries under one of its names the one that asks for most of its fields.

    An entry is called `NAME`, or `NAME[field=value, ...]` for a part with these values. For a folder or file of one's
    own nothing stands in by the registry name alone: who asks questions of their own does not want others'.
    """
    names = identities(part)
    for name in names[:1] if _is_here(part) else names:
        fitting = {}
        for key, stand_in in table.items():
            base, _, fields = key.removesuffix("]").partition("[")
            asked = [pair.partition("=") for pair in fields.split(",") if pair]
            if base == name and all(_said(part.get(f.strip())) == value.strip() for f, _, value in asked):
                fitting[len(asked)] = stand_in
        if fitting:
            return fitting[max(fitting)]
    return None


def _is_here(part: Any) -> bool:
    """Whether a part names a folder or a file and not something of a hub."""
    id = part.get("id") if isinstance(part, dict) else None
    return isinstance(id, str) and (is_path(id) or os.path.exists(id))


def _label(part: dict[str, Any], stand_in: StandIn) -> str:
    use = dict(stand_in.use)
    name = use.pop("name", "") if "id" not in use else use.pop("id")
    detail = "".join(f", {k} {v}" for k, v in use.items() if isinstance(v, str | int | float) and k != "name")
    return f"{identities(part)[0]} -> {name}{detail}" + (f" ({stand_in.note})" if stand_in.note else "")


def _label_replaced(before: dict[str, Any], after: dict[str, Any], scale: Scale, stand_ins: dict[Path_, str]) -> None:
    """Name the mixtures and the benchmarks that `overrides` exchanged as a whole."""
    for pattern in component_places():
        if pattern[-2] != "*":
            continue
        for holder, where, path in _places(before, pattern[:-2]):
            old, new, key = holder[where], _at(after, path), pattern[-1]
            if not isinstance(new, dict):
                continue
            if set(old) != set(new) or any(
                old[n][key] != new[n][key] and (*path, str(n), key) not in stand_ins for n in old
            ):
                names = [" + ".join(dict.fromkeys(identities(e[key])[0] for e in side.values())) for side in (old, new)]
                stand_ins[path] = " -> ".join(names) + (f" ({scale.note})" if scale.note else "")


def _places(data: dict[str, Any], pattern: Path_, path: Path_ = ()) -> Iterator[tuple[dict[str, Any], str, Path_]]:
    """(mapping, key, path) of every existing place that a path with `*` names."""
    if not isinstance(data, dict):
        return
    for key in list(data) if pattern[0] == "*" else [k for k in data if str(k) == pattern[0]]:
        if len(pattern) == 1:
            yield data, key, (*path, str(key))
        else:
            yield from _places(data[key], pattern[1:], (*path, str(key)))


def _of_stage(path: str, stage: str) -> str:
    return f"stages.{stage}{path.removeprefix('stages.*')}" if path.startswith("stages.*.") else path


def _is_so(config: dict[str, Any], pattern: Path_, wanted: Any) -> bool:
    """Whether every place that `pattern` names, and at least one, has the wanted value or one of the wanted values."""
    values = wanted if isinstance(wanted, list) else [wanted]
    found = [holder[key] for holder, key, _ in _places(config, pattern)]
    return bool(found) and all(any(_said(f) == _said(v) for v in values) for f in found)


def _counterpart(value: Any, mapping: dict[Any, Any]) -> Any:
    for paper, ours in mapping.items():
        if paper == value or str(paper) == str(value):
            return ours
    return mapping.get("*", value)


def _changed(before: dict[str, Any], after: dict[str, Any], parts: tuple[Path_, ...]) -> dict[Path_, str]:
    """Path -> "old -> new" of the plain values that differ and decide a result, outside the exchanged parts."""
    old, new = _values(before), _values(after)
    unwritten = {path: None for path in new if path[0] == "stages" and path[2:3] == ("learning_rates",)}
    return {
        path: f"{_said(value)} -> {_said(new[path])}"
        for path, value in (unwritten | old).items()
        if path in new and value != new[path] and not any(path[: len(p)] == p for p in parts)
    }


def _values(config: dict[str, Any]) -> dict[Path_, Any]:
    """Plain values by path; a climb, whose steps are its keys, is one of them."""
    flat: dict[Path_, Any] = {}
    for path, value in flatten(config).items():
        if path[0] == "stages" and path[2:4] == ("data", "climb"):
            path, value = path[:4], _at(config, path[:4])
        if not _only_how(path):
            flat[path] = value
    return flat


def _only_how(path: Path_) -> bool:
    """Whether a path lies in a section that decides no result."""
    kind = RunConfig.model_fields[path[0]].annotation if path[0] in RunConfig.model_fields else None
    return isinstance(kind, type) and issubclass(kind, Strict) and kind.decides == "execution"


def _said(value: Any) -> str:
    """A value in YAML's words."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_said(part)}" for key, part in value.items())
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _split(path: Path_) -> Path_:
    return tuple(piece for key in path for piece in key.split("."))
