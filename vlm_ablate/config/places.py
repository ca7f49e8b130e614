"""Where registered parts stand in a configuration, and which paths lead to anything: found in annotations of fields."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from vlm_ablate.config.base import ComponentOf
from vlm_ablate.config.document import Path_
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import nearest
from vlm_ablate.registry import Registry

_SLIP = 0.8
"""Least likeness (`difflib`) of a slip of the pen and what was meant: `dpeth` and `depth` have it."""


class Unknown(NamedTuple):
    """A key of a path that leads nowhere."""

    at: int
    """Its place in the path."""
    known: list[str]
    """Keys that stand there."""
    nearest: str | None
    """Of these."""


@cache
def component_places() -> dict[Path_, Registry[Any]]:
    """Path in a run's configuration, `*` standing for any name -> registry of the part that stands there."""
    return dict(_parts(RunConfig, ()))


def is_component(path: Path_) -> bool:
    """Whether a registered part stands at this path of a run's configuration, or of a diff of one."""
    if path[:1] == ("data",):
        path = ("stages", "*", *path)
    return any(
        len(place) == len(path) and all(p in ("*", q) for p, q in zip(place, path, strict=True))
        for place in component_places()
    )


def _parts(model: type[BaseModel], path: Path_) -> Iterator[tuple[Path_, Registry[Any]]]:
    for name, field in model.model_fields.items():
        yield from _inside(field.annotation, field.metadata, (*path, name))


def _inside(annotation: Any, marks: Any, path: Path_) -> Iterator[tuple[Path_, Registry[Any]]]:
    registries = [mark.registry for mark in marks if isinstance(mark, ComponentOf)]
    origin, args = get_origin(annotation), get_args(annotation)
    if registries:
        yield path, registries[-1]
    elif origin is Annotated:
        yield from _inside(args[0], args[1:], path)
    elif origin in (Union, UnionType):
        for choice in args:
            yield from _inside(choice, (), path)
    elif origin is dict:
        yield from _inside(args[1], (), (*path, "*"))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _parts(annotation, path)


def unknown_key(path: Path_) -> Unknown | None:
    """The first key of a path (`*` for any name) that no run's configuration has; None: it leads somewhere.

    Of a registered part, which may be one of a plug-in that is not loaded, only what is hardly more than a slip of the
    pen away from a known field.
    """
    here: list[tuple[Any, Any]] = [(RunConfig, ())]
    for at, key in enumerate(path):
        steps = [step for kind, marks in here for step in _steps(kind, marks)]
        below = [(kind, marks) for name, kind, marks, _ in steps if "*" in (name, key) or name == key]
        if not below:
            known = list(dict.fromkeys(name for name, *_ in steps))
            near, of_part = nearest(key, known), any(part for *_, part in steps)
            if of_part and (near is None or SequenceMatcher(None, key, near).ratio() < _SLIP):
                return None
            return Unknown(at, known, near)
        here = below
    return None


def is_mapping(path: Path_) -> bool:
    """Whether what stands at a path (`*` for any name) of a run's configuration is no plain value."""
    here: list[tuple[Any, Any]] = [(RunConfig, ())]
    for key in path:
        steps = [step for kind, marks in here for step in _steps(kind, marks)]
        here = [(kind, marks) for name, kind, marks, _ in steps if "*" in (name, key) or name == key]
    return bool(here) and all(_is_mapping(kind, marks) for kind, marks in here)


def _is_mapping(annotation: Any, marks: Any) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_mapping(args[0], args[1:])
    if origin in (Union, UnionType):
        return all(_is_mapping(choice, ()) for choice in args if choice is not type(None))
    part = any(isinstance(mark, ComponentOf) for mark in marks)
    return part or origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel))


def _steps(annotation: Any, marks: Any) -> Iterator[tuple[str, Any, Any, bool]]:
    """(key or `*`, annotation, marks, whether it is a field of a part) of what stands below a value of that type."""
    registries = [mark.registry for mark in marks if isinstance(mark, ComponentOf)]
    origin, args = get_origin(annotation), get_args(annotation)
    models = registries[-1].configs() if registries else []
    if not models and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        models = [annotation]
    for model in models:
        for name, field in model.model_fields.items():
            yield name, field.annotation, field.metadata, bool(registries)
    if origin is Annotated:
        yield from _steps(args[0], args[1:])
    elif origin in (Union, UnionType):
        for choice in args:
            yield from _steps(choice, ())
    elif origin is dict:
        yield "*", args[1], (), False
