"""What of a configuration decides the weights, what a score, and what only how they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from vlm_ablate.config.base import Decides, Marked, Strict

__all__ = ["Decides", "decision", "dump"]

_NOTHING = object()


def dump(value: Strict, what: Decides) -> dict[str, Any]:
    """Plain data (as `model_dump(mode="json")`) of the fields that decide `what`, nested; others are left out.

    Fields that joined later and stand at their default (`base.added`) are left out, too.

    Raises:
        ValueError: nothing says what a field decides.
    """
    found = _dump(value, value.model_dump(mode="json"), what, None)
    return {} if found is _NOTHING else found


def decision(model: type[Strict], field: FieldInfo, inherited: Decides | None = None) -> Decides | None:
    """What a field decides: what it says itself, or its class, or the field that its class stands in."""
    marks = [mark.decides for mark in field.metadata if isinstance(mark, Marked)]
    return marks[-1] if marks else model.decides or inherited


def _dump(value: Any, plain: Any, what: Decides, inherited: Decides | None) -> Any:
    if isinstance(value, Strict):
        kept = {}
        for name in plain:
            decides = decision(type(value), type(value).model_fields[name], inherited)
            kept[name] = _dump(getattr(value, name), plain[name], what, decides)
    elif isinstance(value, Mapping) and any(isinstance(part, Strict) for part in value.values()):
        parts = zip(plain.items(), value.values(), strict=True)
        kept = {name: _dump(part, below, what, inherited) for (name, below), part in parts}
    elif inherited is None:
        raise ValueError(f"nothing says what {value!r} decides: training, a score or only execution")
    else:
        return plain if inherited == what else _NOTHING
    kept = {name: part for name, part in kept.items() if part is not _NOTHING}
    return kept or _NOTHING
