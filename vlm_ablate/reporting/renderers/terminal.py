"""The table in a terminal, through Rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.grid import Cell, Grid, Layout, without
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.notes import DETAILS

if TYPE_CHECKING:
    from rich.console import Console, Group, JustifyMethod, RenderableType
    from rich.table import Table
    from rich.text import Text

DROPPED = (
    ("blind",),
    ("paper_total_params", "total_parameters"),
    ("paper_trainable_params", "trainable_parameters"),
    ("score_*",),
)
"""Columns that a narrow terminal goes without, in this order (`*`: all that start so)."""


def print_report(report: Report, console: Console) -> None:
    """Print the report, with as many columns as the terminal is wide."""
    layout = lay_out(report)
    console.print(renderable(layout, fitting(layout.table, console)))


def fitting(table: Grid, console: Console) -> Grid:
    """The table without what does not fit on a line."""
    from rich.measure import Measurement

    dropped: list[str] = []
    for keys in ((), *DROPPED):
        dropped += keys
        kept = without(table, dropped)
        if Measurement.get(console, console.options.update(width=1000), grid(kept)).maximum <= console.width:
            break
    return kept


def renderable(layout: Layout, table: Grid) -> Group:
    """The page as one Rich renderable, with `table` for its table."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(layout.title, style="bold"), Text(layout.subtitle, style="dim"), Padding(grid(table), (1, 0, 0, 0))
    ]
    if layout.order:
        parts.append(Text(layout.order))
    if layout.claims:
        parts.append(Padding(grid(layout.claims), (1, 0, 0, 0)))
    for subject, text in layout.notes:
        if subject not in DETAILS:
            parts.append(Text.assemble((f"{subject}: ", "bold dim"), (text, "dim")))
    if left := [subject.lower() for subject, _ in layout.notes if subject in DETAILS]:
        parts.append(Text(f"Left out here: {', '.join(left)} (see --format markdown).", style="dim"))
    return Group(*parts)


def grid(table: Grid) -> Table:
    """A Rich table with a rule above the floor rows."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column, heading in zip(table.columns, table.flat_headings(), strict=True):
        justify: JustifyMethod = "right" if column.numeric else "left"
        drawn.add_column(heading.replace(": ", "\n"), justify=justify, vertical="bottom", no_wrap=column.numeric)
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
