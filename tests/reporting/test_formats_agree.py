"""One report in every format: the same cells in the same places, the same notes, and figures with its numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tests.reporting.reading import ReadHtml, Texts, blanks, read_latex, read_markdown
from vlm_ablate.config.experiment import Experiment, TableConfig
from vlm_ablate.reporting import Report, render, report
from vlm_ablate.reporting.charts import figure_forest, figure_slope
from vlm_ablate.reporting.grid import Grid, Layout, without
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.notes import DETAILS
from vlm_ablate.reporting.renderers import html
from vlm_ablate.reporting.renderers.latex_text import escape
from vlm_ablate.reporting.renderers.png import LEFT_OUT, PICTURE_LEAVES_OUT, _Page
from vlm_ablate.reporting.renderers.terminal import DROPPED, fitting, renderable
from vlm_ablate.tracking.records import History, RunRecord


@pytest.fixture(params=["full", "one seed", "unlike", "published", "never run"])
def found(
    request: pytest.FixtureRequest, experiment: Experiment, runs: list[RunRecord], run: Callable[..., RunRecord],
    score_of: Callable[..., dict], histories: dict[str, History],
) -> Report:  # fmt: skip
    """Tables that differ in what they have to show."""
    match request.param:
        case "full":
            ceiling = dict.fromkeys(("vqa", "knowledge", "text", "captions"), 99.0)
            return report(experiment, runs, histories=histories, ceiling=ceiling, remarks=[("Tuned", "a = 1 & b < 2.")])
        case "one seed":
            return report(experiment, [r for r in runs if r.seed == 1])
        case "unlike":
            scored = [run("ca", s, scores=[score_of("vqa", v)]) for s, v in enumerate((29.0, 31.04, 8.0))]
            lost = [run("ar_lora", s, status="diverged", tags={"vlm.message": "loss_is |nan|"}) for s in range(2)]
            return report(experiment, [*scored, *lost, run("ca_lora", 0, scores=[score_of("vqa", 3.25, unparsed=9)])])
        case "published":
            shown = experiment.model_copy(update={"table": TableConfig(published=True), "question": ""})
            arms = {name: arm for name, arm in experiment.arms.items() if name.endswith("lora")}
            return report(shown.model_copy(update={"arms": arms}), runs)
        case _:
            return report(experiment, [])


def texts(table: Grid) -> Texts:
    """The cells of rows and foot as unformatted text."""
    return [[cell.plain for cell in row] for row in (*table.rows, *table.foot)]


def grids(layout: Layout) -> list[Grid]:
    return [layout.table, *([layout.claims] if layout.claims else [])]


def test_markdown_holds_every_cell_heading_and_note(found: Report) -> None:
    layout = lay_out(found)
    tables, items = read_markdown(render(found, "markdown"))
    assert len(tables) == len(grids(layout))
    for read, grid in zip(tables, grids(layout), strict=True):
        assert read[0] == [blanks(text) for text in grid.flat_headings()]
        assert read[1:] == [[blanks(text) for text in row] for row in texts(grid)]
    assert items == [blanks(f"{subject}: {text}") for subject, text in layout.notes]


def test_html_holds_every_cell_and_note(found: Report) -> None:
    layout = lay_out(found)
    page = ReadHtml(render(found, "html"))
    assert page.headings == [layout.title] and len(page.tables) == len(grids(layout))
    for read, grid in zip(page.tables, grids(layout), strict=True):
        # A mark stands before the interval there.
        cells = [
            [f"{c.text}{c.mark}{f' ± {c.spread}' if c.spread else ''}" for c in r] for r in (*grid.rows, *grid.foot)
        ]
        assert [row for row in read if row][-len(cells) :] == cells
    assert sorted(page.notes) == sorted(f"{subject}: {text}" for subject, text in layout.notes)


def test_html_counts_the_notes_that_it_folds(found: Report) -> None:
    notes = lay_out(found).notes
    folded = re.search(r"<summary>(\d+) more notes?:.*?</summary>(.*?)</details>", html.folded(notes), re.DOTALL)
    shown = [note for note in notes if note[0] in html.SHOWN]
    assert (int(folded[1]) if folded else 0) == (folded[2].count("<dt>") if folded else 0) == len(notes) - len(shown)


def test_latex_holds_every_cell_and_note(found: Report) -> None:
    layout, text = lay_out(found), render(found, "latex")
    tables = read_latex(text)
    for read, grid in zip(tables, grids(layout), strict=True):
        spread = r" {\scriptsize$\pm$%s}"
        body = [
            [f"{escape(c.text)}{spread % c.spread if c.spread else ''}{escape(c.mark)}" for c in r] for r in grid.rows
        ]
        assert read == body + [[escape(cell.plain) for cell in row] for row in grid.foot]
    for subject, told in layout.notes:
        assert rf"\emph{{{escape(subject)}}}: {escape(told)}" in text


@pytest.mark.parametrize("width", [40, 90, 140, 400])
def test_a_terminal_holds_every_cell_of_the_columns_that_fit(found: Report, width: int) -> None:
    layout, out = lay_out(found), io.StringIO()
    console = Console(file=out, width=width)
    table = fitting(layout.table, console)
    kept, all_keys = [c.key for c in table.columns], [c.key for c in layout.table.columns]
    assert kept == [key for key in all_keys if key in kept], "in their order"
    gone = [key for key in all_keys if key not in kept]
    assert gone == [] or width < 400
    steps = [tuple(key for keys in DROPPED[:n] for key in keys) for n in range(len(DROPPED) + 1)]
    assert table in [without(layout.table, dropped) for dropped in steps]
    Console(file=out, width=2000).print(renderable(layout, table))
    printed = blanks(out.getvalue())
    for row in texts(table):
        assert all(blanks(text) in printed for text in row)
    for subject, told in layout.notes:
        assert (blanks(f"{subject}: {told}") in printed) == (subject not in DETAILS)
        assert subject not in DETAILS or subject.lower() in printed


def test_a_picture_holds_every_number_and_all_notes_but_those_of_detail(found: Report) -> None:
    layout = lay_out(found)
    page = _Page(layout)
    page._collect()
    drawn = [item[3] for item in page.items if item[0] == "text"]
    edges = [(item[1], item[3]) for item in page.items if item[0] == "text" and item[4].get("ha") != "right"]
    assert all(0 <= x <= page.width for x, _ in edges)
    together = blanks(" ".join(drawn))
    counted = {text: drawn.count(text) for text in drawn}
    wanted: dict[str, int] = {}
    for grid in (without(layout.table, PICTURE_LEAVES_OUT), *grids(layout)[1:]):
        for row in (*grid.rows, *grid.foot):
            for column, cell in zip(grid.columns, row, strict=True):
                for text in (cell.text, f"±{cell.spread}" if cell.spread else "") if column.numeric else ():
                    wanted[text] = wanted.get(text, 0) + bool(text)
                assert blanks(cell.text) in together or column.numeric
    assert all(counted.get(text, 0) >= times for text, times in wanted.items())
    for subject, told in layout.notes:
        assert (blanks(told) in together) == (subject not in LEFT_OUT) or not told


def test_csv_rounds_to_what_the_table_shows(found: Report) -> None:
    layout = lay_out(found)
    lines = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    keys = [column.key for column in layout.table.columns]
    means = [line for line in lines if line["column"] == "mean"]
    assert len(means) == len(layout.table.rows)
    for row, line in zip(layout.table.rows, means, strict=True):
        cells = dict(zip(keys, row, strict=True))
        of_arm = {o["column"]: o for o in lines if o["arm"] == line["arm"]}
        for column in found.columns if line["arm"] else ():
            cell = cells.get(f"score_{column}")
            if cell is not None and of_arm[column]["mean"]:
                assert cell.text == f"{float(of_arm[column]['mean']):.1f}"
        if line["mean"]:
            assert cells["mean"].text == f"{float(line['mean']):.1f}"
            assert cells["mean"].spread == (f"{float(line['half_width_95']):.1f}" if line["half_width_95"] else "")
            assert bool(cells["mean"].mark) == bool(line["stand_ins"])
            places = dict.fromkeys((line["rank_best"], line["rank_worst"]))
            assert cells["rank"].text == "–".join(places)
        else:
            assert cells["mean"].muted and cells["mean"].text in (line["status"], "–")
        if line["paper_score"] and "paper_score" in cells:
            assert cells["paper_score"].text == f"{float(line['paper_score']):.1f}"


def test_headings_without_groups_are_told_apart_and_groups_span_all_columns(found: Report) -> None:
    for grid in grids(lay_out(found)):
        flat = [text for text in grid.flat_headings() if text != "#"]
        assert len(set(flat)) == len(flat)
        assert sum(span for _, span in grid.groups()) == len(grid.columns)
        assert all(len(row) == len(grid.columns) for row in (*grid.rows, *grid.foot))


def svg_texts(svg: bytes) -> Sequence[str]:
    return [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]


def test_figures_show_the_table_s_numbers_and_a_row_for_each_difference(found: Report) -> None:
    both = [row for row in found.rows if row.paper_score is not None and row.score()]
    if len(both) > 1:
        drawn = svg_texts(figure_slope(found))
        for row in both:
            first = row.label.split()[0]
            assert any(text.startswith(f"{row.score().mean:.1f}  {first}") for text in drawn)
            assert f"{row.paper_score:.1f}" in drawn
    shown = [c for claim in found.claims for c in claim.comparisons if c.difference]
    if shown:
        drawn = svg_texts(figure_forest(found))
        together = blanks(" ".join(drawn))
        for pair in {f"{c.better} − {c.worse}" for c in shown}:
            assert together.count(pair) == sum(f"{c.better} − {c.worse}" == pair for c in shown)
        assert ("; ◇ the paper's" in together) == any(c.paper_gain is not None for c in shown)
