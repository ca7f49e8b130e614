"""The table in a terminal, through Rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.layout import Cell, Grid, Layout, lay_out

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

WIDE = 150
"""Columns of a terminal from which both papers' and our parameter columns fit."""


def print_report(report: Report, console: Console) -> None:
    """Print the report; a narrow terminal gets it without the parameter columns."""
    console.print(renderable(lay_out(report), narrow=console.width < WIDE))


def renderable(layout: Layout, *, narrow: bool = False) -> Group:
    """The page as one Rich renderable."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts = [Text(layout.title, style="bold"), Text(layout.subtitle, style="dim")]
    parts.append(Padding(grid(_narrowed(layout.table) if narrow else layout.table), (1, 0, 0, 0)))
    if layout.order:
        parts.append(Text(layout.order))
    if layout.claims:
        parts.append(Padding(grid(layout.claims), (1, 0, 0, 0)))
    for subject, text in layout.notes:
        parts.append(Text.assemble((f"{subject}: ", "bold dim"), (text, "dim")))
    return Group(*parts)


def grid(table: Grid) -> Table:
    """A Rich table with a rule above the floor rows."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    several = len({c.group for c in table.columns if c.group}) > 1
    for column in table.columns:
        group = column.group.partition(" (")[0]
        over = f"{group}\n" if several and group and column.heading != "#" else ""
        drawn.add_column(f"{over}{column.heading}", justify="right" if column.numeric else "left", vertical="top")
    for i, row in enumerate(table.rows):
        drawn.add_row(*map(_text, row), end_section=bool(table.foot) and i == len(table.rows) - 1)
    for row in table.foot:
        drawn.add_row(*map(_text, row), style="dim italic")
    return drawn


def _text(cell: Cell) -> Text:
    from rich.text import Text

    verdicts = {"agrees": "bold green", "contradicts": "bold red"}
    style = verdicts.get(cell.text.partition(" (")[0], "bold" if cell.bold else "dim" if cell.muted else "")
    return Text.assemble((cell.text, style), (f" ± {cell.spread}" if cell.spread else "", "dim"), cell.mark)


def _narrowed(table: Grid) -> Grid:
    dropped = {"paper_total_params", "paper_trainable_params", "total_parameters", "trainable_parameters", "blind"}
    keep = [i for i, c in enumerate(table.columns) if c.key not in dropped]
    pick = lambda rows: tuple(tuple(row[i] for i in keep) for row in rows)  # noqa: E731
    return Grid(tuple(table.columns[i] for i in keep), pick(table.rows), pick(table.foot))
