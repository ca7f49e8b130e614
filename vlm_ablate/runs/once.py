"""Looking at the disk once, where many runs are read and nothing computes in between: a table of a thousand runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_known: dict[Any, Any] | None = None


@contextmanager
def looking_once() -> Iterator[None]:
    """Within the block `once` remembers; outside of it, it looks each time."""
    global _known
    before = _known
    _known = {} if before is None else before
    try:
        yield
    finally:
        _known = before


def once(key: tuple[Any, ...], look: Callable[[], T]) -> T:
    """What `look` says, remembered under `key` within a block of `looking_once`."""
    if _known is None:
        return look()
    if key not in _known:
        _known[key] = look()
    found: T = _known[key]
    return found
