"""Lines for a log: at most one a second, and what came in between is counted, so that a hundred quick ends are one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

LINE_SECONDS = 1.0
"""Least time between two lines."""
IMPORTANT = ("failed", "warning", "skipped", "diverged", "stopped", "finished", "recorded", "started")
"""Kinds of lines, those that are shown first in front; any other comes after them."""
WORDS = {"recorded": "recorded earlier", "warning": "warnings"}


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
            self.flush()

    def flush(self) -> None:
        """Show what waits, now."""
        if not self._waiting:
            return
        self._shown = time.monotonic()
        first = min(self._waiting, key=_rank)
        rest = Counter(line.kind for line in self._waiting if line is not first and line.kind in IMPORTANT)
        counted = ", ".join(f"{rest[kind]} {WORDS.get(kind, kind)}" for kind in IMPORTANT if rest[kind])
        self._show(first.text + (f"  (and {counted})" if counted else ""), first.style)
        self._waiting.clear()


def _rank(line: _Line) -> int:
    return IMPORTANT.index(line.kind) if line.kind in IMPORTANT else len(IMPORTANT)
