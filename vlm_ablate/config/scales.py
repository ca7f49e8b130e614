"""Scales: finding the file, and putting its stand-ins, values and overrides into one arm's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.compose import load_document, merge_documents, nest
from vlm_ablate.config.document import Document, Location, Path_, display
from vlm_ablate.config.places import component_places
from vlm_ablate.config.problems import problems_of
from vlm_ablate.config.scale import Scale, StandIn
from vlm_ablate.config.scale_notes import (
    Scaled,
    as_they_were,
    changed,
    every_place,
    identities,
    label,
    label_replaced,
    said,
    told_anew,
    value_at,
)
from vlm_ablate.config.shared_data import apply_diff, covers, spellings, spread
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

    def made(self, path: Path_, value: Any) -> tuple[str, Path_]:
        """Where the scale wrote the `value` that stands at `path` of a run, or what is nearest above it; and how it
        calls the path."""
        known = spellings(path)
        for spelled in known:
            if location := self._wrote(spelled, value):
                return str(location), spelled
        for section in ("overrides", "values"):
            for spelled in known:
                if self.document.depth((section, *spelled)) > 1:
                    return str(self.document.where((section, *spelled))), spelled
        found = self.document.where((path[1], "use")) if len(path) > 1 else None
        return str(found or self.file), known[-1]

    def _wrote(self, path: Path_, value: Any) -> Location | None:
        """The line that wrote a value at a path or below it: of those that may have, that of what goes last."""
        holders: list[Path_] = [
            ("tuned", str(i), "set")
            for i, tuned in reversed([*enumerate(self.scale.tuned)])
            if any(covers(tuple(key.split(".")), path) and found == value for key, found in tuned.set.items())
        ]
        holders.append(("overrides",))
        holders += [("values", *key.split(".")) for key, ours in self.scale.values.items() if value in ours.values()]
        for holder in holders:
            start = 1 if holder[0] == "values" else len(holder)
            below = {at[start:]: line for at, line in self.document.lines.items() if at[: len(holder)] == holder}
            if found := [at for at in below if len(at) >= len(path) and covers(at, path)]:
                return below[min(found, key=lambda at: (len(at), "*" in at))]
        return None


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
        for holder, key, path in _with_shared(result, pattern):
            part = holder[key]
            found = _stand_in(part, table)
            if found:
                holder[key] = dict(found.use)
            if path[0] == "data":
                continue
            if found:
                stand_ins[path] = label(part, found)
            elif table and part.get("id") and not _is_here(part):
                missing[path] = part["id"]
    for dotted, mapping in scale.values.items():
        for place in spread(tuple(dotted.split("."))):
            for holder, key, _ in _with_shared(result, place):
                holder[key] = _counterpart(holder[key], mapping)
    stood = result
    result = apply_diff(result, nest(scale.overrides))
    for tuned in scale.tuned:
        for stage in config["stages"]:  # `stages.*` is the same stage in what is asked and in what is set
            when = {_of_stage(path, stage): value for path, value in tuned.when.items()}
            then = {_of_stage(path, stage): value for path, value in tuned.set.items()}
            if all(_is_so(config, tuple(path.split(".")), value) for path, value in when.items()):
                result = apply_diff(result, nest(then))
    _climb_in_time(config, result)
    stand_ins = told_anew(stand_ins, stood, result)
    label_replaced(config, result, scale, stand_ins)
    values = changed(config, result, tuple(stand_ins))
    return Scaled(result, stand_ins, values, as_they_were(missing, stood, result))


def _with_shared(config: dict[str, Any], pattern: Path_) -> Iterator[tuple[dict[str, Any], str, Path_]]:
    """`every_place` of a pattern; of every stage's data also those in the file's, for stages that a diff brings."""
    yield from every_place(config, pattern)
    if pattern[:3] == ("stages", "*", "data"):
        yield from every_place(config, pattern[2:])


def _climb_in_time(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Where the scale changed a stage's steps, its climb takes place at the same shares of them.

    What the scale made of a stage may be no stage: its check tells.
    """
    stages = after.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        was = before["stages"].get(name, {})
        climb = value_at(stage, ("data", "climb"))
        if not isinstance(climb, dict) or not isinstance(stage.get("steps"), int):
            continue
        if climb and list(climb) == list(value_at(was, ("data", "climb")) or ()):
            share = stage["steps"] / was["steps"]
            stage["data"]["climb"] = {str(round(int(step) * share)): size for step, size in climb.items()}


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
            if base == name and all(said(part.get(f.strip())) == value.strip() for f, _, value in asked):
                fitting[len(asked)] = stand_in
        if fitting:
            return fitting[max(fitting)]
    return None


def _is_here(part: Any) -> bool:
    """Whether a part names a folder or a file and not something of a hub."""
    id = part.get("id") if isinstance(part, dict) else None
    return isinstance(id, str) and (is_path(id) or os.path.exists(id))


def _of_stage(path: str, stage: str) -> str:
    return f"stages.{stage}{path.removeprefix('stages.*')}" if path.startswith("stages.*.") else path


def _is_so(config: dict[str, Any], pattern: Path_, wanted: Any) -> bool:
    """Whether every place that `pattern` names, and at least one, has the wanted value or one of the wanted values."""
    values = wanted if isinstance(wanted, list) else [wanted]
    found = [holder[key] for holder, key, _ in every_place(config, pattern)]
    return bool(found) and all(any(_is_same(f, v) for v in values) for f in found)


def _is_same(found: Any, wanted: Any) -> bool:
    """Whether two values are one, in whatever way a number is written."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (found, wanted))
    return bool(found == wanted) if numbers else said(found) == said(wanted)


def _counterpart(value: Any, mapping: dict[Any, Any]) -> Any:
    for paper, ours in mapping.items():
        if paper == value or str(paper) == str(value):
            return ours
    return mapping.get("*", value)


def _split(path: Path_) -> Path_:
    return tuple(piece for key in path for piece in key.split("."))
