"""Any text in any place of a page: read back as it was written, and nothing of it acts."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.reporting.reading import ReadHtml, blanks, read_markdown
from vlm_ablate.config.evaluation import EvaluationConfig
from vlm_ablate.config.experiment import Arm, Experiment, TableConfig
from vlm_ablate.reporting import render, report
from vlm_ablate.reporting.grid import Cell, Column, Grid, Layout
from vlm_ablate.reporting.renderers import html, markdown
from vlm_ablate.reporting.renderers.latex_text import escape, lacking

NASTY = "\\`*_|<>[]$~&#{}%^\"'!?-+=:;()@/. 1aé中🎉ﬁß→−†´\u0301\u200b\u00a0\n\t"
TEXTS = st.one_of(
    st.text(NASTY, max_size=14),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=10),
    st.sampled_from(
        ["&amp;", "--", "1. a", "# a", "- a", "<b>", "https://a.b/c_d_e", "[a](b)", "**a**", "~~a~~", "a #"]
    ),
)
LAWS = settings(max_examples=150, deadline=None)


def page(title: str, heading: str, cells: tuple[str, ...], note: tuple[str, str], bold: bool) -> Layout:
    columns = (Column("arm", heading, "Group", numeric=False), Column("mean", "Score"))
    rows = tuple((Cell(text, bold=bold), Cell("1.0", "0.2", mark="†")) for text in cells)
    foot = ((Cell("Floor"), Cell(cells[0])),)
    return Layout(title, "source", "", Grid(columns, rows, foot), "", None, (note,))


PAGES = st.builds(
    page, TEXTS, TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple), st.tuples(TEXTS, TEXTS), st.booleans()
)  # fmt: skip


@given(PAGES)
@LAWS
def test_markdown_is_read_back(made: Layout) -> None:
    text = markdown.render(made)
    (table,), items = read_markdown(text)
    assert table[0] == [blanks(made.table.columns[0].heading), "Score"]
    assert table[1:] == [[blanks(c.plain) for c in row] for row in (*made.table.rows, *made.table.foot)]
    subject, told = made.notes[0]
    assert items == [blanks(f"{blanks(subject)}: {told}")]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    (heading,) = [after for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert "".join(child.content for child in heading.children or ()) == blanks(made.title)


@given(PAGES)
@LAWS
def test_html_is_read_back(made: Layout) -> None:
    read = ReadHtml(html.render(made))
    assert read.headings == [made.title]
    rows = [
        [f"{c.text}{c.mark}{f' ± {c.spread}' if c.spread else ''}" for c in r]
        for r in (*made.table.rows, *made.table.foot)
    ]
    assert [row for row in read.tables[0] if row][-len(rows) :] == rows
    assert read.notes == [": ".join(made.notes[0])]


ACTS = re.compile(r"(?<!\\)[%#&_$^~]")


@given(TEXTS)
@LAWS
def test_latex_is_plain_letters_in_closed_groups(text: str) -> None:
    made = escape(text)
    assert made.isascii() and "\n" not in made
    bare = re.sub(r"\\[{}\\]", "", made)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    mathematics = re.sub(r"(?<!\\)\$[^$]*(?<!\\)\$", "", made)
    accents = re.sub(r"\\[\^~]\{", "{", mathematics)
    assert not ACTS.search(accents), made
    if text.isascii():
        assert not re.search(r"--|''|``|,,|[?!]`", made.replace("''", "", text.count('"')))
    assert not made.startswith(("[", "*"))


@given(TEXTS)
@LAWS
def test_a_character_that_stands_as_its_code_is_listed(text: str) -> None:
    made = escape(text)
    for entry in lacking(text):
        code, _, name = entry.partition(" ")
        assert code in made and name
        made = made.replace(code, "")
    assert "U+" not in made or "U+" in text


@pytest.mark.parametrize("text", ["é", "ñandú", "Å", "Čapek, ő, ṣ"])
def test_accents_are_the_same_however_they_were_typed(text: str) -> None:
    """A file name of macOS holds a letter and its accent apart."""
    apart = unicodedata.normalize("NFD", text)
    assert apart != text and escape(apart) == escape(text) and "U+" not in escape(apart)
    assert lacking(apart) == []


@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=4, unique=True), TEXTS)
@settings(LAWS, max_examples=40)
def test_csv_is_read_back(labels: list[str], title: str) -> None:
    experiment = Experiment.model_construct(
        name="t", title=title, question="", paper=None, seeds=[0], table=TableConfig(),
        arms={f"arm_{i}": Arm(label=label) for i, label in enumerate(labels)},
        evaluation=EvaluationConfig.model_construct(benchmarks={"vqa": None}),
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(str(render(report(experiment, []), "csv")), newline="")))
    assert [row["label"].removeprefix("'") for row in rows[::2]] == [label.removeprefix("'") for label in labels]
    assert {row["status"] for row in rows} == {"not run"}
    assert [row["column"] for row in rows] == ["mean", "vqa"] * len(labels)
