"""GitHub Markdown."""

from __future__ import annotations

import re

from vlm_ablate.reporting.grid import Cell, Grid, Layout


def render(layout: Layout) -> str:
    """The page as GitHub Markdown: heading, table, order of arms, claims, footnotes."""
    # A `#` at a heading's end would be taken for a part of its marks.
    parts = [re.sub(r"(#+)$", r"\\\1", f"### {escape(layout.title)}"), escape(layout.subtitle)]
    if layout.question:
        parts.append(f"*{escape(layout.question)}*")
    parts.append(grid(layout.table))
    if layout.order:
        parts.append(escape(layout.order))
    if layout.claims:
        parts.append(grid(layout.claims))
    if layout.notes:
        parts.append("\n".join(f"- **{escape(subject)}:** {escape(text)}" for subject, text in layout.notes))
    return "\n\n".join(parts) + "\n"


def grid(table: Grid) -> str:
    """A table; Markdown has no spanning headings, so its columns are named apart."""
    headings = [escape(text) for text in table.flat_headings()]
    rules = ["---:" if c.numeric else ":---" for c in table.columns]
    rows = [[cell(c) for c in row] for row in table.rows]
    foot = [[f"*{text}*" if (text := escape(c.plain)) else "" for c in row] for row in table.foot]
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, rules, *rows, *foot])


def cell(value: Cell) -> str:
    """One cell: bold goes on the value and not on its interval."""
    text = escape(value.text)
    if value.bold and text:
        text = f"**{text}**"
    spread = f" ± {value.spread}" if value.spread else ""
    return f"{text}{spread}{value.mark}"


def escape(text: str) -> str:
    """Text that GitHub's Markdown would read as markup or mathematics, made literal, on one line."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]$~]|&(?=#?\w+;))", r"\\\1", one_line)
