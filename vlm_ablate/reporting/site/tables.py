"""The page of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import islice
from statistics import fmean

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.charts import figure_curve, figure_forest, figure_slope
from vlm_ablate.reporting.figures import curves
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.grid import Cell, Column, Grid
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.renderers.html import folded, grid, page
from vlm_ablate.reporting.site.entry import Entry
from vlm_ablate.reporting.site.svg import colours, inline
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.answers import Answers

ANSWERS = 4
"""Items shown of each benchmark."""
STYLE = """
.finding { font-size: 1.15rem; font-weight: 600; max-width: 60rem; margin: .8rem 0; text-wrap: pretty; }
nav { font-size: .9rem; margin-bottom: 1.2rem; } a { color: inherit; text-underline-offset: .15em; }
figure { margin: 0; } figure svg { width: 100%; max-width: 46rem; height: auto; display: block; }
figcaption, .small { color: var(--soft); font-size: .85rem; max-width: 46rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1rem 2rem; }
.missing { border-left: 3px solid var(--bad); padding: .3rem .8rem; max-width: 60rem; }
pre { background: var(--band); padding: .7rem .9rem; font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: .4rem 0; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
img { max-width: 100%; height: auto; background: #fff; }
h1, .source, .missing, td.text { overflow-wrap: anywhere; }
""" + colours()


def table_page(entry: Entry, picture: str | None = None) -> str:
    """The page: question, finding, table, claims, figures, answers, cost, the command, and folded what is scaled.

    Args:
        picture: address of the panel of examples, where there is one.
    """
    report = entry.report
    home = '<nav><a href="index.html">All tables</a></nav>'
    if report is None:
        head = f'<h1>{escape(entry.title or entry.experiment)}</h1>\n<p class="source">{escape(entry.experiment)}</p>'
        return page(entry.experiment, "\n".join([home, head, missing(entry.problem, entry.commands)]), STYLE)
    layout = lay_out(report)
    parts = [home, f"<h1>{escape(layout.title)}</h1>", f'<p class="source">{escape(layout.subtitle)}</p>']
    parts += [f'<p class="question">{escape(layout.question)}</p>'] if layout.question else []
    parts += [f'<p class="finding">{escape(finding(report))}</p>']
    if not any(row.score() for row in report.rows):
        parts.append(missing(_nothing(entry), entry.commands))
    parts.append(grid(layout.table, "scores"))
    parts += [f'<p class="order">{escape(layout.order)}</p>'] if layout.order else []
    parts += [f"<h2>The claims</h2>\n{grid(layout.claims, 'claims')}"] if layout.claims else []
    parts.append(f"<h2>Figures</h2>\n{_figures(entry)}")
    parts.append(f"<h2>What it answered</h2>\n{_answers(entry, picture)}")
    parts += [folded(layout.notes), f"<h2>Cost</h2>\n<p>{escape(cost(entry))}</p>"]
    files = (
        f'<p class="small">The table as <a href="{entry.stem}.csv">CSV</a> and <a href="{entry.stem}.tex">LaTeX</a>.'
    )
    parts.append(f"<h2>Again</h2>\n{commands(entry.commands)}\n{files}</p>")
    return page(layout.title, "\n".join(parts), STYLE)


def missing(what: str, how: Iterable[str]) -> str:
    """What is not there, and the commands that bring it."""
    return f'<div class="missing"><p>{escape(what)}</p>\n{commands(how)}</div>'


def commands(lines: Iterable[str]) -> str:
    """A block of commands; "" for none."""
    text = "\n".join(lines)
    return f"<pre><code>{escape(text)}</code></pre>" if text else ""


def _nothing(entry: Entry) -> str:
    others = len(entry.records) - len(entry.shown)
    if others and not entry.shown:
        told = "1 run was" if others == 1 else f"{others} runs were"
        return f"{told} recorded with another configuration than the file's now, and none with it."
    return "No run of this experiment has ended with a score."


def _figures(entry: Entry) -> str:
    report = entry.report
    assert report is not None
    found = curves(report, entry.records, entry.histories)
    drawn = [
        _figure("forest", "Paired differences of the claims", lambda: figure_forest(report), entry),
        _figure("slope", "Order of arms: the paper's and ours", lambda: figure_slope(report), entry),
        _figure("curve", "Score along the way", lambda: figure_curve(report, found), entry),
    ]
    return f'<div class="figures">\n{"".join(drawn)}\n</div>'


def _figure(kind: str, name: str, draw: Callable[[], bytes], entry: Entry) -> str:
    """The figure, or why there is none and what brings it."""
    try:
        inside = inline(draw(), name, kind)
    except VlmAblateError as error:
        if type(error) is not VlmAblateError:
            raise
        help = {
            "forest": "Claims stand under table.claims of the experiment; their arms need a common seed.",
            "slope": "An arm's cell names its row of the paper's table.",
            "curve": "evaluation.curve in the experiment says when runs are scored along the way.",
        }[kind]
        return f"<figure><figcaption>{escape(f'{name}: {error.message}. {help}')}</figcaption></figure>\n"
    return f"<figure><figcaption>{escape(name)}</figcaption>\n{inside}</figure>\n"


def _answers(entry: Entry, picture: str | None) -> str:
    run = entry.sample
    if run is None:
        return '<p class="small">No run has answers to show yet.</p>'
    whose = f"{run.label}, seed {run.seed}"
    parts = []
    if picture:
        told = f"Pictures with question, truth and the answer of {whose}."
        shown = f'<img src="{escape(picture)}" alt="{escape(told)}" loading="lazy">'
        parts.append(f'<figure><a href="{escape(picture)}">{shown}</a>'  # whole, where the page is narrow
                     f"<figcaption>{escape(told)}</figcaption></figure>")  # fmt: skip
    read = entry.answers.get(run.run_id)
    told_of = [part for part in read() if not part.blind] if read else []
    if told_of:
        parts.append(f"<details><summary>Answers of {escape(whose)} in words</summary>\n{_rows(told_of)}</details>")
    if not parts:
        parts.append(
            '<p class="small">The records have no answers and pictures: they are in the home that the runs were '
            "computed in, and a report made there shows them.</p>"
        )
    return "\n".join(parts)


def _rows(parts: Iterable[Answers]) -> str:
    names = ("Benchmark", "Question", "Truth", "Answer", "Score")
    columns = tuple(Column(name.lower(), name, numeric=name == "Score") for name in names)
    rows = []
    for part in parts:
        for _, question, references, answer, score in islice(part.rows, ANSWERS):
            told = "–" if score is None else f"{100 * score:.0f}"
            truth = references[0] if references else "–"
            rows.append(tuple(Cell(_short(t)) for t in (part.column, question, truth, answer or "(nothing)", told)))
    return grid(Grid(columns, tuple(rows)), "answers")


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 160 else f"{one_line[:159]}…"


def cost(entry: Entry) -> str:
    """Runs, hours and machines."""
    runs = entry.shown
    seconds = [r.metrics[schema.WALL_SECONDS] for r in runs if schema.WALL_SECONDS in r.metrics]
    ended = [r for r in runs if r.status in schema.DONE]
    text = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    text += f" ({len(runs) - len(ended)} not ended)" * (len(ended) < len(runs))
    if seconds:
        text += f", {_hours(sum(seconds))} of computing ({_hours(max(seconds))} the longest run)"
        cpu = [r.metrics[schema.CPU_SECONDS] for r in ended if schema.CPU_SECONDS in r.metrics]
        if cpu:
            text += f", {_hours(fmean(cpu))} of CPU time a run{f' ({len(cpu)} told)' * (len(cpu) < len(ended))}"
        text += "; a stage that two runs share counts for each"
    machines = list(dict.fromkeys(m for r in runs if (m := r.tags.get(schema.MACHINE))))
    return f"{text}. Machine: {'; '.join(machines)}." if machines else f"{text}."


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
