"""The table as a picture that looks like a table in a paper and stays legible in a README."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from vlm_ablate.reporting.grid import MARK, Cell, Column, Grid, Layout, without
from vlm_ablate.reporting.style import BAND, INK, SOFT, drawing, to_bytes

Row = tuple[Cell, ...]

# Lengths in points.
SIZE, SMALL, TITLE = 10.0, 8.2, 13.5
LINE, PAD, GAP, MARGIN = 19.0, 6.0, 4.0, 18.0
GROUP_GAP = 9.0
WRAP, WRAP_FIRST = 300.0, 200.0
"""Widest text cell before it wraps; the first of many columns wraps sooner."""
HINTED = 1.02
"""Drawn letters are up to so much wider than their outlines, because they are fitted to pixels."""
GOOD, BAD = "#1a7f4b", "#b3361b"
LEFT_OUT = ("Material", "Training data", "Demonstrations", "Health", "Computed")
"""Notes that the other formats carry and a picture has no room for."""
PICTURE_LEAVES_OUT = ("blind",)
"""Columns likewise; the floor row stays."""


def render(layout: Layout, *, dpi: int = 160) -> bytes:
    """PNG bytes; the same layout gives the same bytes."""
    with drawing():
        return to_bytes(_Page(layout).draw(), "png", dpi=dpi)


@cache
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    return HINTED * float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0])


def wrap(text: str, width: float, size: float) -> list[str]:
    """Lines of words that are not wider than `width` points; a longer word stands alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@dataclass
class _Columns:
    """Horizontal places of a grid's columns: left and right edge, and the room for intervals at the right."""

    left: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)


class _Page:
    """Measures the grids, then draws everything from the top down on axes in points, y pointing down."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.grid = without(layout.table, PICTURE_LEAVES_OUT)
        self.table = _measure(self.grid)
        self.claims = _measure(layout.claims) if layout.claims else _Columns(right=[0.0])
        title = text_width(layout.title, TITLE, True)
        inner = max(self.table.right[-1], self.claims.right[-1], title, 420.0)
        _stretch(self.table, inner)
        _stretch(self.claims, min(inner, self.claims.right[-1] + 60.0))
        self.width = inner + 2 * MARGIN
        self.y = MARGIN
        self.items: list[tuple[Any, ...]] = []

    def draw(self) -> Any:
        """The finished figure. Items are collected first, because the height follows from them."""
        self._collect()
        height = self.y + MARGIN
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.width), ylim=(height, 0))
        axes.axis("off")
        for kind, *item in self.items:
            if kind == "text":
                x, y, text, style = item
                axes.text(x, y, text, va="baseline", parse_math=False, **style)
            elif kind == "rule":
                x0, x1, y, weight, colour = item
                axes.plot([x0, x1], [y, y], color=colour, linewidth=weight, solid_capstyle="butt")
            else:
                x0, x1, y0, y1 = item
                axes.fill_between([x0, x1], y0, y1, color=BAND, linewidth=0, zorder=0)
        return figure

    def _collect(self) -> None:
        self.y += TITLE
        self._text(0, self.layout.title, size=TITLE, weight="bold")
        for line in wrap(self.layout.subtitle, self.width - 2 * MARGIN, SIZE):
            self.y += 17
            self._text(0, line, size=SIZE, color=SOFT)
        self.y += 14
        self._grid(self.grid, self.table)
        if self.layout.order:
            self.y += 20
            self._text(0, self.layout.order, size=SIZE)
        if self.layout.claims:
            self.y += 16
            self._grid(self.layout.claims, self.claims)
        self.y += 6
        self._notes()

    def _grid(self, grid: Grid, columns: _Columns) -> None:
        end = columns.right[-1]
        self._rule(0, end, 1.4)
        if any(c.group for c in grid.columns):
            self._groups(grid, columns)
        headings = [_heading_lines(c) for c in grid.columns]
        self.y += LINE - 2 + 13 * (max(map(len, headings)) - 1)
        for i, column in enumerate(grid.columns):
            colour = SOFT if column.heading == "#" else INK
            x, align = (columns.right[i], "right") if column.numeric else (columns.left[i], "left")
            for n, line in enumerate(reversed(headings[i])):
                self._marked(x, line, ha=align, weight="bold", color=colour, dy=-13.0 * n)
        self.y += 6
        self._rule(0, end, 0.8)
        for i, row in enumerate(grid.rows):
            self._row(grid, columns, row, band=i % 2 == 1)
        if grid.foot:
            self._rule(0, end, 0.5, SOFT)
            for row in grid.foot:
                self._row(grid, columns, row, foot=True)
        self._rule(0, end, 1.4)

    def _groups(self, grid: Grid, columns: _Columns) -> None:
        self.y += LINE - 2
        first = 0
        for name, span in grid.groups():
            if name:
                x0, x1 = columns.left[first], columns.right[first + span - 1]
                self._marked((x0 + x1) / 2, name, ha="center")
                self.items.append(("rule", MARGIN + x0, MARGIN + x1, self.y + 5, 0.6, SOFT))
            first += span
        self.y += 3

    def _row(self, grid: Grid, columns: _Columns, row: Row, *, band: bool = False, foot: bool = False) -> None:
        words = [i for i, column in enumerate(grid.columns) if not column.numeric and not foot]
        texts = {i: wrap(row[i].text, _wrap_width(grid, i), SIZE) for i in words}
        lines = max((len(t) for t in texts.values()), default=1)
        height = LINE + (lines - 1) * 14
        if band:
            self.items.append(("band", MARGIN, MARGIN + columns.right[-1], self.y, self.y + height))
        top, self.y = self.y, self.y + 13.2
        for i, cell in enumerate(row):
            if grid.columns[i].numeric:
                self._number(columns, i, cell, foot)
            else:
                self._words(columns.left[i], texts.get(i, [cell.text]), cell, foot, grid.columns[i].key)
        self.y = top + height

    def _words(self, x: float, lines: list[str], cell: Cell, foot: bool, key: str) -> None:
        verdict = {"agrees": GOOD, "contradicts": BAD}.get(cell.text.partition(" (")[0]) if key == "verdict" else None
        colour = verdict or (SOFT if cell.muted or foot else INK)
        for n, line in enumerate(lines):
            style = _style(cell, foot)
            self._text(x, line, size=SIZE, color=colour, dy=14 * n, **style)

    def _number(self, columns: _Columns, i: int, cell: Cell, foot: bool) -> None:
        """Values align at their right ends, with the intervals in a narrow column of their own."""
        beside = columns.spread[i] if cell.text[:1].isdigit() or cell.text[:1] in "−+" else 0.0
        x = columns.right[i] - beside
        style = _style(cell, foot)
        self._text(x, cell.text, size=SIZE, ha="right", color=SOFT if cell.muted or foot else INK, **style)
        at = x + GAP - 1
        if cell.spread:
            self._text(at, f"±{cell.spread}", size=SMALL, color=SOFT)
            at += text_width(f"±{cell.spread}", SMALL)
        if cell.mark:
            self._text(at + 1, cell.mark, size=SMALL, color=SOFT, dy=-3)

    def _notes(self) -> None:
        joined: dict[str, list[str]] = {}
        for subject, text in self.layout.notes:
            if subject not in LEFT_OUT:
                joined.setdefault(subject, []).append(text)
        for subject, texts in joined.items():
            text = (" " if all(text.endswith(".") for text in texts) else "; ").join(texts)
            indent = text_width(f"{subject}:", SMALL, True) + 4.0
            lines = wrap(f"{subject}: {text}", self.width - 2 * MARGIN - 12, SMALL)
            for n, line in enumerate(lines):
                self.y += 13
                if n == 0:
                    self._text(0, f"{subject}:", size=SMALL, color=SOFT, weight="bold")
                    self._text(indent, line[len(subject) + 2 :], size=SMALL, color=SOFT)
                else:
                    self._text(0, line, size=SMALL, color=SOFT)
            self.y += 2

    def _marked(self, x: float, text: str, *, ha: str, dy: float = 0.0, **style: Any) -> None:
        """A heading, with its footnote mark (if any) raised behind it."""
        bare = text.removesuffix(MARK)
        self._text(x, bare, size=SIZE, ha=ha, dy=dy, **style)
        if bare != text:
            width = text_width(bare, SIZE, style.get("weight") == "bold")
            end = x + {"left": width, "center": width / 2, "right": 0.0}[ha]
            self._text(end + 1, MARK, size=SMALL, dy=dy - 3)

    def _text(self, x: float, text: str, *, size: float, dy: float = 0.0, color: str = INK, **style: Any) -> None:
        if text:
            self.items.append(("text", MARGIN + x, self.y + dy, text, {"size": size, "color": color, **style}))

    def _rule(self, x0: float, x1: float, weight: float, colour: str = INK) -> None:
        self.items.append(("rule", MARGIN + x0, MARGIN + x1, self.y, weight, colour))


def _measure(grid: Grid) -> _Columns:
    """Columns at their natural widths; a group's heading may widen its last column."""
    columns, x = _Columns(), 0.0
    for i, column in enumerate(grid.columns):
        cells = [row[i] for row in (*grid.rows, *grid.foot)]
        widths = [max(text_width(line, SIZE, True) for line in _heading_lines(column))]
        spread = max((_spread(c) for c in cells), default=0.0) if column.numeric else 0.0
        for n, cell in enumerate(cells):
            if i == 0 and n >= len(grid.rows):
                continue  # names of floor rows may reach over the next columns, which are empty there
            lines = [cell.text] if column.numeric else wrap(cell.text, _wrap_width(grid, i), SIZE)
            width = 1.0 + max(text_width(line, SIZE, cell.bold) for line in lines)
            widths.append(width + (spread if cell.text[:1].isdigit() else 0.0))
        columns.left.append(x)
        columns.right.append(x + max(widths))
        columns.spread.append(spread)
        x = columns.right[-1] + 2 * PAD
        if i + 1 < len(grid.columns) and grid.columns[i + 1].group != column.group:
            x += GROUP_GAP
    _widen_groups(grid, columns)
    return columns


def _heading_lines(column: Column) -> list[str]:
    """A benchmark's name of several words goes on lines of its own; other headings stay whole."""
    return column.heading.split() if column.key.startswith("score_") else [column.heading]


def _wrap_width(grid: Grid, i: int) -> float:
    return WRAP_FIRST if i == 0 and len(grid.columns) > 8 else WRAP


def _spread(cell: Cell) -> float:
    return (GAP + text_width(f"±{cell.spread}", SMALL) if cell.spread else 0.0) + (6.0 if cell.mark else 0.0)


def _widen_groups(grid: Grid, columns: _Columns) -> None:
    first = 0
    for name, span in grid.groups():
        last = first + span - 1
        lacking = text_width(name, SIZE) - (columns.right[last] - columns.left[first])
        if lacking > 0:
            columns.right[last] += lacking
            for i in range(last + 1, len(columns.left)):
                columns.left[i] += lacking
                columns.right[i] += lacking
        first += span


def _stretch(columns: _Columns, width: float) -> None:
    """Share out what is left of `width` between the columns."""
    if not columns.left or columns.right[-1] >= width:
        return
    extra = (width - columns.right[-1]) / max(1, len(columns.left) - 1)
    for i in range(len(columns.left)):
        columns.left[i] += extra * i
        columns.right[i] += extra * i


def _style(cell: Cell, foot: bool) -> dict[str, Any]:
    """What matplotlib calls the face of a cell."""
    return {"style": "italic" if foot else "normal", "weight": "bold" if cell.bold else "normal"}
