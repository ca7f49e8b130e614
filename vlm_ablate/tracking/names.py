"""Names that MLflow takes, made of any names, and back."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

LENGTH = 250
"""Characters of the name of a metric, param or tag that MLflow accepts."""
_REFUSED = re.compile(r"[^\w\-. /]|(?<![^/])\.{1,2}(?![^/])|^/|/$|//+", re.ASCII)
_ESCAPED = re.compile(r"_x([0-9a-f]+)_")


def safe_name(name: str) -> str:
    """`name` with every character that MLflow refuses as `_xHEX_`; equal to `name` where it refuses none.

    MLflow takes letters, digits, `_-. ` and `/` between parts that are no `.` or `..`. A name longer than it takes is
    cut, and ends in a hash of the whole.
    """
    kept = _ESCAPED.sub(lambda m: f"_x5f_{m[0][1:]}", name)  # what looks like an escape is one afterwards
    safe = _REFUSED.sub(lambda m: "".join(f"_x{ord(c):x}_" for c in m[0]), kept)
    if len(safe) <= LENGTH:
        return safe
    return f"{safe[: LENGTH - 13]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@lru_cache(maxsize=10_000)
def original_name(safe: str) -> str:
    """The inverse of `safe_name`, for names that were not cut."""
    return _ESCAPED.sub(lambda m: chr(int(m[1], 16)), safe)
