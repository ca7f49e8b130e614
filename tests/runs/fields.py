"""Every field of a run changed alone: configurations that differ from one in a single field, and what it decides."""

from __future__ import annotations

import copy
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from tests.tracking.specs import PLUGIN, make_spec
from vlm_ablate.config.base import Strict
from vlm_ablate.config.decides import decision
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import UnknownNameError
from vlm_ablate.registry import (
    Registry,
    architectures,
    benchmarks,
    connectors,
    language_models,
    sources,
    vision_encoders,
)
from vlm_ablate.runs.spec import RunSpec

Path = tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """A run in which one field has another value."""

    path: Path
    decides: str
    owner: str
    """Name of the class that has the field."""
    spec: RunSpec

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def place(self) -> tuple[str, ...]:
        """Class and field, and section or stage."""
        return (self.owner, self.path[-1], *self.path[:2])


def changed_alone(spec: RunSpec, known: Collection[tuple[str, ...]] = ()) -> Iterator[Changed]:
    """The run with each field changed for which there is another value that goes together with the rest.

    Args:
        known: places (see `Changed.place`) to be passed by.
    """
    plain = spec.config.model_dump(mode="json")
    before = flat(plain)
    for path, owner, decides, annotation, now in _fields(spec.config, None, ()):
        if (owner, path[-1], *path[:2]) in known:
            continue
        for value in _others(annotation, now):
            try:
                config = RunConfig.model_validate(_with(plain, path, value))
                changed = replace(spec, config=config)
                assert changed.score_keys  # a template that nobody knows is found out here
            except (ValidationError, ValueError, UnknownNameError):
                continue
            after = flat(config.model_dump(mode="json"))
            unlike = {key for key in before.keys() | after.keys() if before.get(key, ()) != after.get(key, ())}
            if unlike and all(key[: len(path)] == path or path[: len(key)] == key for key in unlike):
                yield Changed(path, decides, owner, changed)
                break


def every_field_changed() -> Iterator[tuple[RunSpec, Changed]]:
    """(a run, the same with one field changed) for every field of every class that stands in a run, and every stage."""
    known: set[tuple[str, ...]] = set()
    for spec in runs_of_every_part().values():
        for change in changed_alone(spec, known):
            known.add(change.place)
            yield spec, change


def all_fields(spec: RunSpec) -> set[tuple[str, str]]:
    """(class, field) of every field of a run."""
    return {(owner, path[-1]) for path, owner, *_ in _fields(spec.config, None, ())}


def flat(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Path -> plain value, of nested mappings; an empty one is a value."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    return {k: v for name, below in value.items() for k, v in flat(below, (*path, str(name))).items()}


def _fields(value: Strict, inherited: Any, path: Path) -> Iterator[tuple[Path, str, str, Any, Any]]:
    for name, field in type(value).model_fields.items():
        now, decides = getattr(value, name), decision(type(value), field, inherited)
        if isinstance(now, Strict):
            yield from _fields(now, decides, (*path, name))
        elif isinstance(now, Mapping) and any(isinstance(below, Strict) for below in now.values()):
            for key, below in now.items():
                yield from _fields(below, decides, (*path, name, key))
        elif name != "name":  # of a part: another one is another configuration
            assert decides is not None
            yield (*path, name), type(value).__name__, decides, field.annotation, now


def _with(plain: Any, path: Path, value: Any) -> Any:
    changed = copy.deepcopy(plain)
    place = changed
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = value
    return changed


def _others(annotation: Any, now: Any) -> Iterator[Any]:
    """Plain values of a type that are not the one that is there; some may be out of its range."""
    for kind in _kinds(annotation):
        if kind is type(None):
            found: list[Any] = [None]
        elif get_origin(kind) is Literal:
            found = list(get_args(kind))
        elif isinstance(kind, type) and issubclass(kind, Enum):
            found = [member.value for member in kind]
        elif kind is bool:
            found = [True, False]
        elif kind in (int, float):
            number = now if isinstance(now, int | float) else 1
            found = [kind(each) for each in (number * 2, number / 2, number + 1, 1, 4, 64)]
        elif kind is str:
            found = [f"{now or ''}x", "hub/x", "vqa_short", "exact_match"]
        elif get_origin(kind) in (list, tuple):
            inner = [each for kind in get_args(kind) for each in _others(kind, None)]
            found = [[*(now or []), "<x>"], ["vqa"], [0.5, 0.5], *([each] for each in inner)]
        elif get_origin(kind) is dict:
            more = {name: value + 1 for name, value in (now or {}).items() if isinstance(value, int | float)}
            found = [{"1": 64}, {"x": {}}, {"x": 1.0}, {"report": "y"}, more]
        else:
            found = []
        plain = list(now) if isinstance(now, tuple) else now.value if isinstance(now, Enum) else now
        yield from (value for value in found if value != plain or type(value) is not type(plain))


def _kinds(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from _kinds(inner)
    elif hasattr(annotation, "__metadata__"):
        yield from _kinds(annotation.__origin__)
    else:
        yield annotation


def smallest(registry: Registry[Any], name: str) -> dict[str, Any]:
    """A registered part as plain data, with no more than it must have."""
    kind = registry[name].config
    needed = {field: "hub/y" for field, info in kind.model_fields.items() if info.is_required() and field != "name"}
    return {"name": name, **needed}


def own_names(registry: Registry[Any]) -> list[str]:
    """Parts of this package and of the tests' plug-in, whatever other tests have registered before."""
    return [name for name in registry.names() if registry[name].module.startswith(("vlm_ablate.", PLUGIN))]


def runs_of_every_part() -> dict[str, RunSpec]:
    """Runs of two stages which together have every registered part, and sections that are left out by default."""
    plain = make_spec(stages=_STAGES).to_dict()
    kinds = ("vision", vision_encoders), ("language", language_models), ("connector", connectors)
    found: dict[str, Any] = {}
    for field, registry in (*kinds, ("architecture", architectures)):
        for name in own_names(registry):
            found[name] = _with(plain, ("config", "model", field), smallest(registry, name))
    for name in own_names(sources):
        entry = {"source": smallest(sources, name)}
        found[name] = _with(plain, ("config", "stages", "align", "data", "mixture", "other"), entry)
    for name in own_names(benchmarks):
        asked = {"benchmark": smallest(benchmarks, name)}
        found[name] = _with(plain, ("config", "evaluation", "benchmarks", "other"), asked)
    curve = _with(plain, ("config", "evaluation", "curve"), {"points": 2})
    found["curve"] = _with(curve, ("config", "execution", "stages"), {"tune": {"features": "off"}})
    packed = _with(plain, ("config", "stages", "align", "data", "packing"), "rows")
    found["packed"] = _with(packed, ("config", "stages", "align", "data", "image"), {"split": "tiles", "size": 728})
    parts = {"connector": "hub/x", "vision": "hub/v"}
    found["started"] = _with(plain, ("config", "model", "init_from"), parts)
    return {name: RunSpec.from_dict(body) for name, body in found.items()}


_STAGES = {
    "align": {"steps": 10, "batch_size": 4, "language": "full"},
    "tune": {"steps": 10, "batch_size": 4, "vision": "full", "language": "lora"},
}
