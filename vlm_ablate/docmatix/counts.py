"""How many PDFs, pages, pairs and rows there were at each step, and how many went where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class PdfCounts:
    """One PDF's way through the build."""

    name: str
    key: str
    status: str = "read"
    """"read", or why it was skipped: corrupt, encrypted, empty, unreadable, crashed the reader."""
    detail: str = ""
    pages: dict[str, int] = field(default_factory=dict)
    """in the file, beyond the limit, unreadable, without text, with text that the picture does not show."""
    generated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> pairs."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Kind -> pairs kept."""
    prompts_refused: int = 0
    rows_made: int = 0
    rows_without_pairs: int = 0

    @property
    def kept(self) -> int:
        """Pairs that passed the filter."""
        return self.generated - sum(self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Totals:
    """All PDFs together."""

    pdfs: dict[str, int]
    pages: dict[str, int]
    generated: int
    dropped: dict[str, int]
    kinds: dict[str, int]
    prompts_refused: int
    rows_made: int
    rows_without_pairs: int

    @property
    def kept(self) -> int:
        """Pairs that passed the filter."""
        return self.generated - sum(self.dropped.values())

    @property
    def drop_share(self) -> float:
        """Pairs that did not, as a share of all; 0.15 in Docmatix."""
        return 1 - self.kept / self.generated if self.generated else 0.0


def total(counts: Iterable[PdfCounts]) -> Totals:
    """The sum over PDFs."""
    found = list(counts)
    return Totals(
        dict(Counter(c.status for c in found)), _sum(c.pages for c in found), sum(c.generated for c in found),
        _sum(c.dropped for c in found), _sum(c.kinds for c in found), sum(c.prompts_refused for c in found),
        sum(c.rows_made for c in found), sum(c.rows_without_pairs for c in found),
    )


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    every: Counter[str] = Counter()
    for part in parts:
        every.update(part)
    return dict(every.most_common())
