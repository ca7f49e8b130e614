"""JSON objects that tell when they were damaged: each carries a checksum of itself. No torch here.

For what is written once and read later: one flipped bit of a score is a score. What has no checksum, as of an earlier
version or made by hand, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FIELD = "sum"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its checksum, which comes last."""
    return {**body, FIELD: _checksum(json.loads(json.dumps(body)))}


def unsealed(body: dict[str, Any]) -> dict[str, Any]:
    """What `sealed` was given, as JSON brought it back.

    Raises:
        ValueError: it is not what it was.
    """
    rest = {name: value for name, value in body.items() if name != FIELD}
    if FIELD in body and body[FIELD] != _checksum(rest):
        raise ValueError("its checksum is not that of what was written: it is damaged, or was changed by hand")
    return rest


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_CANONICAL.encode(body).encode()).hexdigest()[:16]
