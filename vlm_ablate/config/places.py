"""Where registered parts stand in a configuration: found in the annotations of its fields."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from vlm_ablate.config.base import ComponentOf
from vlm_ablate.config.document import Path_
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.registry import Registry


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
