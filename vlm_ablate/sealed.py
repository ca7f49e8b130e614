"""JSON objects that tell when they were damaged: each carries a checksum of itself. No torch here.

For what is written once and read later: one flipped bit of a score is a score. What has no checksum, as of an earlier
version or made by hand, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

FIELD = "sum"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
_NESTED = frozenset({dict, list})
_LONG = 50
"""Entries from which on a list is worth the way of `_quick_checksum`."""


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its checksum, which comes last."""
    return {**body, FIELD: _checksum(json.loads(json.dumps(body)))}


def unsealed(body: dict[str, Any]) -> dict[str, Any]:
    """What `sealed` was given, as JSON brought it back.

    Raises:
        ValueError: it is not what it was.
    """
    rest = {name: value for name, value in body.items() if name != FIELD}
    if FIELD in body:
        told = body[FIELD]
        long = any([type(value) is list and len(value) >= _LONG for value in rest.values()])
        if not (long and told == _quick_checksum(rest)) and told != _checksum(rest):
            raise ValueError("its checksum is not that of what was written: it is damaged, or was changed by hand")
    return rest


def _checksum(body: Mapping[str, Any]) -> str:
    return _digest(_CANONICAL.encode(body).encode())


def _quick_checksum(body: Mapping[str, Any]) -> str:
    """The checksum in a third of the time where there are long lists of numbers; "" where it cannot be made so.

    It is that of a text which differs from the canonical one in rare numbers (`1e-7` for `1e-07`) and beyond ASCII. As
    a text has one reading, it agrees with what was written of no other body.
    """
    try:
        return _digest(to_json(_in_order(body)))
    except (ValueError, RecursionError):  # half a surrogate pair; nested deeper than it writes
        return ""


def _in_order(value: Any) -> Any:
    """The value with the names of objects in order, but in lists that begin with something else."""
    if isinstance(value, dict):
        return {name: _in_order(each) if type(each) in _NESTED else each for name, each in sorted(value.items())}
    if value and type(value[0]) in _NESTED:
        return [_in_order(each) if type(each) in _NESTED else each for each in value]
    return value


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]
