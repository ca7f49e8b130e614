"""Lines for a log: at most one a second. A hundred quick ends become one that counts them; notices wait their turn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

LINE_SECONDS = 1.0
"""Least time between two lines."""
IMPORTANT = ("failed", "skipped", "diverged", "stopped", "pruned", "does not fit", "left", "finished", "recorded",
             "started")  # fmt: skip
"""Kinds of lines, those that are shown first in front; any other comes after them."""
NOTICES = ("warning", "info")
"""Kinds that stand nowhere else, so that none is left out for another line; they come after what failed."""
WORDS = {"recorded": "recorded earlier"}


@dataclass(frozen=True)
class _Line:
    kind: str
    text: str
    style: str


class SteadyLines:
    """Shows a line at once, unless one was shown just before: then it waits, and several that wait become one.

    Args:
        show: prints a text in a style.
    """

    def __init__(self, show: Callable[[str, str], None]) -> None:
        self._show = show
        self._waiting: list[_Line] = []
        self._shown = float("-inf")

    def add(self, kind: str, text: str, style: str = "") -> None:
        """A line to show. Kinds are the names of `IMPORTANT`, or others."""
        self._waiting.append(_Line(kind, text, style))
        self.tick()

    def tick(self) -> None:
        """Show what waits, if it is time."""
        if self._waiting and time.monotonic() - self._shown >= LINE_SECONDS:
            self._next()

    def flush(self) -> None:
        """Show all that waits, now."""
        while self._waiting:
            self._next()

    def _next(self) -> None:
        self._shown = time.monotonic()
        first = min(self._waiting, key=_rank)
        rest = Counter(line.kind for line in self._waiting if line is not first and line.kind in IMPORTANT)
        counted = ", ".join(f"{rest[kind]} {WORDS.get(kind, kind)}" for kind in IMPORTANT if rest[kind])
        self._show(first.text + (f"  (and {counted})" if counted else ""), first.style)
        self._waiting = [line for line in self._waiting if line.kind in NOTICES and line is not first]


def _rank(line: _Line) -> int:
    order = (IMPORTANT[0], *NOTICES, *IMPORTANT[1:])
    return order.index(line.kind) if line.kind in order else len(order)
