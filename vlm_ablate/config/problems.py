"""pydantic's errors as problems a person can act on: where, what, and the nearest valid key or value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vlm_ablate.config.base import ComponentOf, FieldError
from vlm_ablate.config.document import Path_
from vlm_ablate.config.moved import moved_to
from vlm_ablate.errors import Problem, UnknownNameError, nearest

Where = Callable[[Path_], tuple[str, Path_]]
"""Path of a value -> the file (with line) that set it, and the path by which that file calls it."""


def problems_of(error: ValidationError, model: type[BaseModel], data: Any, where: Where) -> list[Problem]:
    """One problem for each thing that pydantic found wrong with `data` as a `model`."""
    found: dict[Path_, Any] = {}
    for item in error.errors(include_url=False):
        path = (*_real_path(item, data), *_below(item))
        if path not in found or len(item["loc"]) > len(found[path]["loc"]):  # of a union, the choice that fits furthest
            found[path] = item
    problems = []
    for path, item in found.items():
        if len(item["loc"]) > len(path) and any(other[: len(path)] == path != other for other in found):
            continue  # another choice of a union, of which something inside is wrong
        message, near = _describe(item, model, data, path)
        file, shown = where(path)
        problems.append(Problem(file, dotted(shown), message, near))
    return problems


def _below(item: Any) -> Path_:
    """The path of a field that a model's validator found at fault."""
    cause = item.get("ctx", {}).get("error")
    return cause.path if isinstance(cause, FieldError) else ()


def dotted(path: Path_) -> str:
    """`("table", "claims", "0", "better")` -> `table.claims[0].better`."""
    return "".join(f"[{key}]" if i and key.isdecimal() else f".{key}" for i, key in enumerate(path)).removeprefix(".")


def kind_of(value: Any) -> str:
    """What YAML read where a text is meant."""
    return "nothing" if value is None else "a truth value" if isinstance(value, bool) else "a number"


def keys_at(model: type[BaseModel], data: Any, path: Path_) -> list[str] | None:
    """Valid keys of the mapping at `path`, or None where any key goes."""
    here: Any = model
    for key in path:
        here = _step(here, key, data)
        data = _child(data, key)
    return [*here.model_fields, *getattr(here, "written_beside", ())] if _is_model(here) else None


def _step(here: Any, key: str, data: Any) -> Any:
    """The type below `here` at `key`; a part's type is the config that its `name` registered."""
    if not _is_model(here):
        args = [a for a in get_args(here) if a is not type(None)]
        below = args[-1] if get_origin(here) in (dict, list, tuple) and args else None
        return get_args(below)[0] if get_origin(below) is Annotated else below
    field = here.model_fields.get(key)
    if field is None:
        return None
    for mark in field.metadata:
        if isinstance(mark, ComponentOf):
            part = _child(data, key)
            name = part.get("name") if isinstance(part, dict) else part
            return mark.registry[name].config if isinstance(name, str) and name in mark.registry else None
    annotation = field.annotation
    choices = [a for a in get_args(annotation) if _is_model(a)]
    return choices[0] if choices and get_origin(annotation) not in (dict, list) else annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _child(data: Any, key: str) -> Any:
    if isinstance(data, dict):
        return next((v for k, v in data.items() if str(k) == key), None)
    if isinstance(data, list | tuple) and key.isdigit() and int(key) < len(data):
        return data[int(key)]
    return None


def _real_path(item: Any, data: Any) -> Path_:
    """pydantic's location without the names of union members, which are no keys of the file."""
    path: list[str] = []
    location = [str(part) for part in item["loc"]]
    for i, key in enumerate(location):
        child = _child(data, key)
        last_of_missing = item["type"] in ("missing", "extra_forbidden") and i == len(location) - 1
        if child is None and not last_of_missing and not (isinstance(data, dict) and key in map(str, data)):
            continue
        path.append(key)
        data = child
    return tuple(path)


def _describe(item: Any, model: type[BaseModel], data: Any, path: Path_) -> tuple[str, str | None]:
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden" and (place := moved_to(path)):
        return f"stands at {place} now", None
    if kind == "extra_forbidden":
        known = keys_at(model, data, path[:-1]) or []
        near = nearest(path[-1], known)
        return ("unknown key" if near else f"unknown key; known here: {', '.join(known)}"), near
    if kind == "missing":
        return "is missing", None
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        near = nearest(given, allowed) if isinstance(given, str) else None
        return f"must be one of {', '.join(allowed)}, not {given!r}", near
    if kind == "value_error":
        cause = item["ctx"]["error"].__cause__
        if isinstance(cause, UnknownNameError):
            return f"unknown {cause.kind} {cause.name!r}; known: {', '.join(cause.known) or 'none'}", cause.nearest
        return str(item["ctx"]["error"]), None
    if kind == "too_short":
        return f"must have at least {item['ctx']['min_length']}, and has {item['ctx']['actual_length'] or 'none'}", None
    if kind == "too_long":
        return f"must have at most {item['ctx']['max_length']}, and has {len(given)}", None
    if kind == "string_pattern_mismatch":
        return f"must match {item['ctx']['pattern']}, not {given!r}", None
    if kind == "invalid_key" or (kind == "string_type" and "[key]" in item["loc"]):
        return f"the key {given!r} is read as {kind_of(given)}; put it in quotes", None
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a mapping of keys, not {given!r}", None
    if isinstance(given, float) and not math.isfinite(given):
        return f"must be a finite number, not {given!r}", None
    message = re.sub(r", unable to .*$|^Input should be ", "", item["msg"]).replace("a valid integer", "a whole number")
    message = message.replace("a valid ", "a ")
    return f"must be {message[0].lower()}{message[1:]}, not {given!r}", None
