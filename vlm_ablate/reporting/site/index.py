"""The page over all tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.grid import Cell, Column, Grid
from vlm_ablate.reporting.overview import overview
from vlm_ablate.reporting.renderers.html import folded, grid, page
from vlm_ablate.reporting.site.entry import Entry
from vlm_ablate.reporting.site.tables import STYLE, commands, missing

TITLE = "Do these design choices matter, and by how much?"


def index_page(entries: Sequence[Entry], not_run: Sequence[Entry]) -> str:
    """The page: for each scale the claims with verdicts, the tables, the agreement of orders; then what is not there.

    Args:
        not_run: experiments of which nothing is recorded.
    """
    parts = [f"<h1>{TITLE}</h1>"]
    if not entries:
        parts.append(missing("Nothing is recorded here yet. This regenerates every table:", ["vlm-ablate reproduce"]))
    for scale in dict.fromkeys(entry.scale for entry in entries):
        parts.append(_of_scale(scale, [entry for entry in entries if entry.scale == scale]))
    if not_run:
        rows = tuple((Cell(e.experiment), Cell(e.title), Cell(" ".join(e.commands))) for e in not_run)
        columns = tuple(Column(n.lower(), n, numeric=False) for n in ("Experiment", "What it varies", "Command"))
        parts.append(f"<h2>Not run yet</h2>\n{grid(Grid(columns, rows), 'answers')}")
    parts.append(f"<h2>Again</h2>\n{commands(['vlm-ablate report --out FOLDER'])}")
    return page("vlm_ablate: report", "\n".join(parts), STYLE)


def _of_scale(scale: str, entries: Sequence[Entry]) -> str:
    reports = [entry.report for entry in entries if entry.report]
    links = {entry.experiment: f"{entry.stem}.html" for entry in entries}
    parts = []
    if reports:
        layout = overview(reports, scale, links=links)
        parts += [f"<h2>{escape(layout.title)}</h2>", f'<p class="source">{escape(layout.subtitle)}</p>']
        parts += [f'<p class="finding">{escape(layout.order)}</p>'] if layout.order else []
        parts += [f"<h2>Claims and verdicts</h2>\n{grid(layout.claims, 'claims')}"] if layout.claims else []
        parts += [f"<h2>Tables</h2>\n{grid(layout.table, 'scores')}", _findings(entries), folded(layout.notes)]
    else:
        parts.append(f"<h2>Scale {escape(scale)}</h2>")
    for entry in entries:
        if entry.report is None:
            parts.append(missing(f"{entry.experiment}: {entry.problem}", entry.commands))
    return "\n".join(parts)


def _findings(entries: Sequence[Entry]) -> str:
    lines = [
        f'<dt><a href="{entry.stem}.html">{escape(entry.experiment)}</a></dt><dd>{escape(finding(entry.report))}</dd>'
        for entry in entries
        if entry.report
    ]
    return "<h2>Findings</h2>\n<dl>\n" + "\n".join(lines) + "\n</dl>"
