"""One self-contained HTML page: no script, no external asset, light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import pairwise

from vlm_ablate.reporting.grid import Cell, Grid, Layout

VERDICTS = ("agrees", "contradicts")
SHOWN = frozenset({
    "Score", "Intervals", "Claims", "Power", "Says nothing", "Budget", "Set by hand", "Tuned", "Arms left out",
    "Rank agreement", "Without a score", "One name, two settings",
})  # fmt: skip
"""Subjects of the notes that are not folded."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #666c76; --rule: #1d1f23; --thin: #d5d8dd; --page: #fff;
  --band: #f5f6f8; --good: #1a7f4b; --bad: #b3361b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa1ab; --rule: #b9bec6; --thin: #3a3f47; --page: #15171a; --band: #1e2125;
    --good: #5fc893; --bad: #f0886c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 88rem; margin: 0 auto; padding: 2.5rem clamp(.8rem, 2vw, 1.5rem) 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .3rem; text-wrap: balance; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
.source { color: var(--soft); margin: 0; }
.question { font-size: 1.1rem; margin: 1rem 0 0; max-width: 60rem; text-wrap: pretty; }
.box { margin: 1.6rem 0 .8rem; }
table { border-collapse: collapse; font-size: clamp(.78rem, 1.15vw, .9rem); font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--rule); border-bottom: 2px solid var(--rule); }
th { font-weight: 600; text-align: left; vertical-align: bottom; }
th, td { padding: .42rem clamp(.18rem, .6vw, .5rem); }
td.number { white-space: nowrap; }
table { width: 100%; }
.scores td:first-child { min-width: 9em; }
table.many { font-size: .76rem; } .many th, .many td { padding-left: .2rem; padding-right: .2rem; }
.scores .spread { display: block; } .scores td { vertical-align: top; }
.claims td { padding-right: clamp(.3rem, 1.2vw, 1.6rem); }
.opens { padding-left: 1.4rem; }
.number { text-align: right; }
thead tr:last-child th { border-bottom: 1px solid var(--rule); }
th.group { text-align: center; border-bottom: 1px solid var(--thin); padding-bottom: .25rem; }
tbody tr:hover { background: var(--band); }
tbody.foot td { color: var(--soft); font-style: italic; }
tbody.foot tr:first-child td { border-top: 1px solid var(--thin); }
.spread, .muted { color: var(--soft); }
.spread { font-size: .85em; }
sup { line-height: 0; font-size: .75em; }
.agrees { color: var(--good); } .contradicts { color: var(--bad); }
.order { margin: .3rem 0; }
dl { font-size: .88rem; line-height: 1.45; display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.1rem;
  margin: 0; }
dt { font-weight: 600; max-width: 16rem; } dd { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
details { margin-top: 1.6rem; } summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem; }
@media (max-width: 62rem) { dl { display: block; } dd { margin-bottom: .5rem; } }
@media print { main { max-width: none; padding: 0; } details > * { display: block; } }
"""
_MANY = 15
"""Columns above which a table needs more room than a narrow window has."""


def _as_list(of: str, width: str) -> str:
    """CSS of a table that is narrower than its columns need: each row is a list of its cells."""
    return f"""\
@media (max-width: {width}) {{
  {of} {{ max-width: 40rem; }} {of} thead {{ display: none; }}
  {of}, {of} tbody, {of} tr, {of} td {{ display: block; border: 0; }}
  {of} tr {{ border-top: 1px solid var(--thin); padding: .5rem 0; }}
  {of} td {{ display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; text-align: right; }}
  {of} td:not(.text) {{ white-space: normal; }} {of} td:empty {{ display: none; }}
  {of} td[data-name]::before {{ content: attr(data-name); color: var(--soft); text-align: left; flex: none;
    max-width: 45%; overflow-wrap: normal; }}
  {of} td, {of} td.opens {{ padding-left: 0; padding-right: 0; }}
  {of} td:first-child {{ font-weight: 600; text-align: left; }} {of} td:first-child::before {{ content: none; }}
  {of} .spread {{ display: inline; }} {of} tbody.foot tr:first-child td {{ border-top: 0; }} }}
"""


_STYLE += _as_list("table", "62rem") + _as_list("table.many", "76rem")


def render(layout: Layout) -> str:
    """The page as one HTML document."""
    question = f'<p class="question">{escape(layout.question)}</p>' if layout.question else ""
    order = f'<p class="order">{escape(layout.order)}</p>' if layout.order else ""
    claims = f"<h2>Claims</h2>\n{grid(layout.claims, 'claims')}" if layout.claims else ""
    head = f'<h1>{escape(layout.title)}</h1>\n<p class="source">{escape(layout.subtitle)}</p>'
    return page(
        layout.title, "\n".join([head, question, grid(layout.table, "scores"), order, claims, folded(layout.notes)])
    )


def page(title: str, body: str, style: str = "") -> str:
    """One HTML document.

    Args:
        body: HTML of its main part.
        style: CSS rules besides those that every page has.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def folded(notes: Iterable[tuple[str, str]]) -> str:
    """Notes without which numbers are misread, and below them, folded, the rest."""
    told = list(notes)
    shown = [note for note in told if note[0] in SHOWN]
    rest = [note for note in told if note[0] not in SHOWN]
    parts = [f"<h2>Notes</h2>\n{_list(shown)}"] if shown else []
    if rest:
        many = "notes" if len(rest) > 1 else "note"
        summary = f"{len(rest)} more {many}: what stands in for what, what was scaled, protocols, data, arms"
        parts.append(f"<details><summary>{summary}</summary>\n{_list(rest)}\n</details>")
    return "\n".join(parts)


def _list(notes: Iterable[tuple[str, str]]) -> str:
    inside = "\n".join(f"<dt>{escape(subject)}</dt><dd>{escape(text)}</dd>" for subject, text in notes)
    return f"<dl>\n{inside}\n</dl>"


def grid(table: Grid, name: str) -> str:
    """A table that is never wider than the page; on a narrow screen each row is a list of its cells."""
    opens = {c.key for before, c in pairwise(table.columns) if c.group != before.group}
    kinds = [("number" if c.numeric else "text") + (" opens" if c.key in opens else "") for c in table.columns]
    head = "".join(_th(c.heading, kind) for c, kind in zip(table.columns, kinds, strict=True))
    names = table.flat_headings()
    body, foot = (
        "\n".join("<tr>" + "".join(map(_td, row, kinds, names)) + "</tr>" for row in rows)
        for rows in (table.rows, table.foot)
    )
    foot = f'<tbody class="foot">\n{foot}\n</tbody>' if foot else ""
    thead = f"{_group_row(table)}<tr>{head}</tr>"
    inside = f"<thead>{thead}</thead>\n<tbody>\n{body}\n</tbody>\n{foot}"
    name += " many" if len(table.columns) > _MANY else ""
    return f'<div class="box"><table class="{name}">\n{inside}</table></div>'


def _group_row(table: Grid) -> str:
    if not any(c.group for c in table.columns):
        return ""
    cells = "".join(
        f'<th class="group" scope="colgroup" colspan="{n}">{_marked(name)}</th>' if name else f'<td colspan="{n}"></td>'
        for name, n in table.groups()
    )
    return f"<tr>{cells}</tr>"


def _th(text: str, kind: str) -> str:
    return f'<th class="{kind}" scope="col">{_marked(text)}</th>'


def _td(cell: Cell, kind: str, name: str) -> str:
    kinds = [kind]
    if cell.muted:
        kinds.append("muted")
    if cell.text.startswith(VERDICTS) and cell.bold:
        kinds.append(cell.text.split()[0])
    text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
    spread = f' <span class="spread">± {cell.spread}</span>' if cell.spread else ""
    text = f'<a href="{escape(cell.href)}">{text}</a>' if cell.href else text
    mark = f"<sup>{cell.mark}</sup>" if cell.mark else ""
    inside = f"{text}{mark}{spread}"
    named = f' data-name="{escape(name)}"' if inside else ""
    return f'<td class="{" ".join(kinds)}"{named}>{f"<span>{inside}</span>" if inside else ""}</td>'


def _marked(text: str) -> str:
    return escape(text).replace("†", "<sup>†</sup>")
