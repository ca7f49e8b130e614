"""A question with its answer, and the pages that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vlm_ablate.pdf.document import PageText


@dataclass(frozen=True)
class Pair:
    """One question and answer."""

    question: str
    answer: str
    kind: str
    """What it asks for (rules), or the prompt style."""
    evidence: tuple[str, ...] = ()
    """What must stand on the pages for the answer to hold; empty: the answer itself. For counts."""


@dataclass(frozen=True)
class PageRow:
    """Consecutive pages of one PDF that are shown together."""

    pdf: str
    """Name of the PDF."""
    key: str
    """Its content's hash."""
    pages: tuple[PageText, ...]

    @property
    def span(self) -> str:
        """Which pages, e.g. "5-8"."""
        first, last = self.pages[0].number, self.pages[-1].number
        return f"{first}-{last}" if last > first else str(first)

    @cached_property
    def text(self) -> str:
        """What stands on all pages."""
        return "\n".join(page.text for page in self.pages)


def cut_rows(pdf: str, key: str, pages: Sequence[PageText], pages_per_row: int) -> list[PageRow]:
    """Consecutive pages, so many a row; the last row may have fewer."""
    return [PageRow(pdf, key, tuple(pages[i : i + pages_per_row])) for i in range(0, len(pages), pages_per_row)]
