"""LaTeX with booktabs; the floor and the claims stand in the same float, footnotes beneath."""

from __future__ import annotations

from vlm_ablate.reporting.grid import Cell, Column, Grid, Layout
from vlm_ablate.reporting.renderers.latex_text import escape, lacking

WRAPPED = r">{\raggedright\arraybackslash}p{0.32\textwidth}"
"""Text that wraps, for claims and verdicts."""


def render(layout: Layout) -> str:
    """A `table*` float. Needs \\usepackage{booktabs,graphicx,array}."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx,array}",
        *(f"% {name}: not in the usual fonts, its code stands in its place" for name in lacking(_all(layout))),
        r"\begin{table*}[t]",
        r"\centering\small",
        rf"\caption{{{escape(layout.title)}. {escape(layout.subtitle)}.}}",
        r"\resizebox{\textwidth}{!}{%",
        grid(layout.table),
        r"}",
    ]
    if layout.claims:
        lines += ["", r"\medskip", grid(layout.claims, WRAPPED)]
    notes = [escape(layout.order)] if layout.order else []
    notes += [rf"\emph{{{escape(subject)}}}: {escape(text)}" for subject, text in layout.notes]
    if notes:
        body = " \\\\\n".join(notes)
        lines += ["", r"\smallskip", rf"\parbox{{\textwidth}}{{\footnotesize {body}}}"]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def grid(table: Grid, words: str = "l") -> str:
    """A `tabular` with group headings over partial rules; `words` is the column type of text."""
    kinds = "".join("r" if c.numeric else words for c in table.columns)
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    lines += _group_lines(table)
    lines += [" & ".join(_heading(c) for c in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(cell(c) for c in row) + r" \\" for row in table.rows]
    if table.foot:
        lines.append(r"\midrule")
        lines += [" & ".join(map(_foot, row)) + r" \\" for row in table.foot]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _group_lines(table: Grid) -> list[str]:
    if not any(c.group for c in table.columns):
        return []
    cells, rules, start = [], [], 1
    for name, span in table.groups():
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
        start += span
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _foot(value: Cell) -> str:
    return rf"\textit{{{escape(value.plain)}}}" if value.text else ""


def _heading(column: Column) -> str:
    return escape(column.heading)


def cell(value: Cell) -> str:
    """One cell; the interval is set small."""
    text = escape(value.text)
    if value.bold and text:
        text = rf"\textbf{{{text}}}"
    spread = rf" {{\scriptsize$\pm${value.spread}}}" if value.spread else ""
    return f"{text}{spread}{escape(value.mark)}"


def _all(layout: Layout) -> str:
    """All texts of a layout."""
    tables = [layout.table, *([layout.claims] if layout.claims else [])]
    texts = [layout.title, layout.subtitle, layout.order, *(text for note in layout.notes for text in note)]
    for table in tables:
        texts += [text for c in table.columns for text in (c.heading, c.group)]
        texts += [c.plain for row in (*table.rows, *table.foot) for c in row]
    return " ".join(texts)
