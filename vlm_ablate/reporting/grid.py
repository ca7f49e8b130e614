"""Grids of formatted cells and the page that holds them: what every renderer draws in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

DASH = "–"
MARK = "†"
"""Stands at every score that a stand-in produced."""


@dataclass(frozen=True)
class Cell:
    """One formatted cell. `spread` is the half-width of an interval, `mark` a footnote mark, `href` another page."""

    text: str = ""
    spread: str = ""
    bold: bool = False
    muted: bool = False
    mark: str = ""
    href: str = ""

    @property
    def plain(self) -> str:
        """As unformatted text."""
        return f"{self.text}{f' ± {self.spread}' if self.spread else ''}{self.mark}"


@dataclass(frozen=True)
class Column:
    """A column: its heading, the group it stands under, and whether it holds numbers."""

    key: str
    heading: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """Columns and rows of cells. `foot` rows (blind floor, ceiling) stand below a rule."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()

    def flat_headings(self) -> list[str]:
        """Headings for a format without groups: the group's name goes to those that two groups share."""
        groups: dict[str, set[str]] = {}
        for column in self.columns:
            groups.setdefault(column.heading, set()).add(column.group)
        flat = []
        for column in self.columns:
            group = column.group.partition(" (")[0]
            mark = MARK if column.group.endswith(MARK) and column.key.startswith(("mean", "score", "blind")) else ""
            prefix = f"{group}: " if len(groups[column.heading]) > 1 and column.heading != "#" else ""
            flat.append(f"{prefix}{column.heading}{mark}")
        return flat

    def groups(self) -> list[tuple[str, int]]:
        """(group, number of columns), in order."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def without(table: Grid, dropped: Sequence[str]) -> Grid:
    """The table without some columns, by key."""
    keep = [i for i, c in enumerate(table.columns) if not any(fnmatchcase(c.key, d) for d in dropped)]
    rows, foot = (tuple(tuple(row[i] for i in keep) for row in part) for part in (table.rows, table.foot))
    return Grid(tuple(table.columns[i] for i in keep), rows, foot)


@dataclass(frozen=True)
class Layout:
    """A whole page: title, table, statement on the order of arms, claims, footnotes."""

    title: str
    subtitle: str
    question: str
    table: Grid
    order: str
    claims: Grid | None
    notes: tuple[tuple[str, str], ...]
