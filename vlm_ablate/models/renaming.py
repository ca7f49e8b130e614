"""Names of tensors in released checkpoints -> names here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]
"""(pattern, replacement) of the start of a name; the first that matches counts."""


@dataclass(frozen=True)
class Renaming:
    """How the checkpoints of a family name their tensors, in memory and in files old and new."""

    rules: Rules

    def to_ours(self, name: str) -> str | None:
        """Our name of their tensor; None when we have no place for it. Rows of one table here may be two there."""
        for pattern, replacement in self.rules:
            if re.match(pattern, name):
                return re.sub(pattern, replacement, name, count=1)
        return None

    def group(self, names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Our name -> theirs, the base rows of a table before the additional ones; and those without a place."""
        placed: dict[str, list[str]] = {}
        homeless: list[str] = []
        for name in sorted(names, key=lambda name: ("additional" in name, name)):
            ours = self.to_ours(name)
            homeless.append(name) if ours is None else placed.setdefault(ours, []).append(name)
        return placed, homeless
