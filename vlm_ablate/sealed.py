"""JSON objects in files that tell when they were damaged: their last entry is the checksum of the text before it.

For what is written once and read later: one flipped bit of a score is a score. What has no checksum, as of an earlier
version or made by hand, is taken as it is. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from vlm_ablate.limits import parse_json

FIELD = "sum"
_OF_TEXT = "text:"
"""What the checksum of a text begins with; without it, it is that of the content, as earlier versions wrote."""
_LAST = re.compile(rb'"sum": "(text:[0-9a-f]{16})"\s*}\s*')


def sealed(body: Mapping[str, Any], *, indent: int | None = None, allow_nan: bool = True) -> str:
    """The JSON text of an object, with its checksum as the last entry. Options are those of `json.dumps`."""
    rest = {name: value for name, value in body.items() if name != FIELD}
    text = json.dumps(rest, indent=indent, allow_nan=allow_nan, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot write
        text = json.dumps(rest, indent=indent, allow_nan=allow_nan)
    line = "" if indent is None else "\n"
    before = text[:-1].rstrip() + ("," if rest else "") + (line + " " * (indent or 0) or " ")
    return f'{before}"{FIELD}": "{_OF_TEXT}{_digest(before.encode())}"{line}}}'


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The object in a text that `sealed` made.

    Raises:
        ValueError: it is not what it was, or no object in JSON.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    body = parse_json(data)
    if not isinstance(body, dict):
        raise ValueError("it holds no mapping")
    if FIELD in body and not _agrees(body.pop(FIELD), data, body):
        raise ValueError("its checksum is not that of what was written: it is damaged, or was changed by hand")
    return body


def _agrees(told: Any, data: bytes, body: Mapping[str, Any]) -> bool:
    if isinstance(told, str) and told.startswith(_OF_TEXT):
        start = data.rfind(b'"sum"')
        return _LAST.fullmatch(data, start) is not None and told == _OF_TEXT + _digest(data[:start])
    return bool(told == _checksum(body))


def _checksum(body: Mapping[str, Any]) -> str:
    """Of the content, whatever the spaces and the order of names."""
    return _digest(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]
