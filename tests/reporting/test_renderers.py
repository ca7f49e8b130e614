"""Each format: a golden table, and that nothing is shown without saying what it is."""

from __future__ import annotations

import csv
import io
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from vlm_ablate.config.experiment import Arm, Experiment, TableConfig
from vlm_ablate.errors import UnknownNameError
from vlm_ablate.reporting import FORMATS, Report, render, report
from vlm_ablate.reporting.grid import Cell, Column, Grid, Layout
from vlm_ablate.reporting.layout import lay_out, parameters
from vlm_ablate.reporting.renderers import latex, markdown
from vlm_ablate.reporting.renderers.png import _Page, text_width, wrap
from vlm_ablate.reporting.renderers.terminal import print_report
from vlm_ablate.tracking.records import RunRecord

GOLDEN = """\
| Architecture | Backbones | Paper: Total | Paper: Trainable | Paper: Score | # | This run: Total | \
This run: Trainable | This run: Score† | # | Seeds |
| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| Fully autoregressive, no Perceiver | frozen | 7.6B | 5M | 51.8 | 5 | – | – | not run |  | 0 |
| Fully autoregressive (Perceiver) | frozen | 8.3B | 740M | 60.3 | 4 | 3.0M | 98k | diverged |  | 0 |
| Cross-attention | frozen | 10B | 2.3B | 66.7 | 3 | 3.4M | 412k | 30.0 ± 12.7† | 2 | 2 |
| Cross-attention | LoRA | 10B | 2.5B | 67.3 | 2 | 3.4M | 412k | skipped |  | 0 |
| Fully autoregressive (Perceiver) | LoRA | 8.3B | 950M | **69.5** | 1 | 3.0M | 98k | **41.2** ± 3.3† | 1 | 3 |"""


@pytest.fixture
def found(experiment: Experiment, runs: list[RunRecord]) -> Report:
    return report(experiment, runs)


@pytest.fixture
def mixed(experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict]) -> Report:
    """Every status, one benchmark, scores that can be checked by hand."""
    rows = {"ca": [29.0, 31.0], "ar_lora": [40.1, 42.7, 40.8]}
    records = [run(arm, s, scores=[score_of("vqa", v)]) for arm, vs in rows.items() for s, v in enumerate(vs)]
    records += [run("ar_perceiver", s, status="diverged") for s in range(3)]
    records += [run("ca_lora", s, status="skipped", tags={"vlm.message": "no such asset"}) for s in range(3)]
    return report(experiment, records)


def test_golden_markdown(mixed: Report) -> None:
    table = render(mixed, "markdown").split("\n\n")[3]
    assert table == GOLDEN


def test_markdown_says_what_stands_in_for_what(found: Report) -> None:
    text = render(found, "markdown")
    assert "run at scale laptop with stand-ins†" in text
    assert "**† Stand-in:** language: mistralai/Mistral-7B-v0.1 → llama-nano" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| Cross", "| Fully"))]
    scores = [cells[9] for cells in rows if len(cells) > 9]
    assert len(scores) == 5 and all(score.rstrip().endswith("†") for score in scores)


def test_no_mark_where_nothing_stands_in(experiment: Experiment, run: Callable[..., RunRecord]) -> None:
    plain = [run(arm, seed, tags={"vlm.stand_ins": "{}"}) for arm in experiment.arms for seed in range(2)]
    for name in ("markdown", "latex", "html"):
        text = render(report(experiment, plain), name)
        assert "†" not in text and "dagger" not in text


def test_markdown_rows_have_equally_many_cells(experiment: Experiment, runs: list[RunRecord]) -> None:
    arms = {"ca": Arm(label="a|b *c* <d>")}
    odd = experiment.model_copy(update={"paper": None, "arms": arms, "table": TableConfig()})
    lines = [line for line in render(report(odd, runs), "markdown").splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "a\\|b \\*c\\* \\<d\\>" in lines[2]


def test_claims_and_order(found: Report) -> None:
    text = render(found, "markdown")
    assert "8 of 9 pairs stand in the paper's order (Kendall τ = 0.74)" in text
    row = r"\| Cross-attention wins with frozen backbones \| \+6\.4 \| −\S+ .* \| \*\*contradicts\*\* \|"
    assert re.search(row, text)


def test_csv_has_full_precision_and_one_line_for_each_arm_and_column(found: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert len(rows) == 5 * 5
    line = next(r for r in rows if (r["arm"], r["column"]) == ("ca", "text"))
    row = next(r for r in found.rows if r.arm == "ca")
    assert float(line["mean"]) == row.score("text").mean
    assert float(line["half_width_95"]) == row.score("text").half_width
    assert "llama-nano" in line["stand_ins"]


def test_csv_leaves_blank_what_was_not_run(mixed: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render(mixed, "csv"))))
    line = next(r for r in rows if (r["arm"], r["column"]) == ("ar_perceiver", "mean"))
    assert (line["status"], line["mean"], line["seeds"]) == ("diverged", "", "0")


def test_latex_is_balanced_and_escaped(found: Report) -> None:
    text = render(found, "latex")
    table = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {14}
    assert text.count("{") == text.count("}")
    assert [text.count(rf"\{word}{{tabular}}") for word in ("begin", "end")] == [2, 2]
    assert latex.escape("50% & a_b #1 → †") == r"50\% \& a\_b \#1 $\to$ $^\dagger$"
    assert text.isascii()


class _Balance(HTMLParser):
    void = ("meta", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.add(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_well_formed_page_without_outside_assets(found: Report) -> None:
    text = render(found, "html")
    page = _Balance()
    page.feed(text)
    assert page.open == []
    assert not {"script", "img", "link", "iframe"} & page.seen
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_html_escapes_labels(experiment: Experiment) -> None:
    text = render(report(experiment.model_copy(update={"title": "<script>alert(1)</script>"}), []), "html")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_png_is_a_picture_of_legible_size_and_stays_the_same(found: Report, mixed: Report) -> None:
    first = render(found, "png")
    width, height = struct.unpack(">II", first[16:24])
    assert 1400 < width < 3200 and 800 < height < width
    assert len(first) < 300_000
    assert first == render(found, "png")
    assert render(mixed, "png") != first


def test_words_wrap_within_the_width() -> None:
    lines = wrap("a sentence that is much longer than the room there is for it", 100.0, 10.0)
    assert len(lines) > 2 and all(text_width(line, 10.0) <= 100.0 for line in lines)


def test_notes_of_one_subject_stand_together_in_a_picture(found: Report) -> None:
    notes = (("Tuned", "one of trial 1."), ("Stand-in", "vision: a"), ("Tuned", "two."), ("Stand-in", "language: b"))
    page = _Page(replace(lay_out(found), notes=notes))
    page._collect()
    texts = [item[3] for item in page.items if item[0] == "text"]
    assert "one of trial 1. two." in texts and "vision: a; language: b" in texts


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_table_fits_and_keeps_scores_whole(found: Report, width: int) -> None:
    out = io.StringIO()
    print_report(found, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    score = found.rows[4].score()
    assert f"{score.mean:.1f} ± {score.half_width:.1f}†" in out.getvalue()
    assert "Stand-in" in out.getvalue()


def test_ceiling_and_floor_rows(experiment: Experiment, runs: list[RunRecord]) -> None:
    ceiling = dict.fromkeys(("vqa", "knowledge", "text"), 100.0) | {"captions": 412.5}
    layout = lay_out(report(experiment, runs, ceiling=ceiling))
    grid = layout.table
    assert "of each benchmark the highest of any arm, and their mean" in dict(layout.notes)["Score"]
    assert [row[0].text for row in grid.foot] == ["Blind floor", "Told in words"]
    at = [c.key for c in grid.columns].index("score_captions")
    assert grid.foot[1][at].text == "412.5"


def test_unknown_format(found: Report) -> None:
    with pytest.raises(UnknownNameError, match="markdown"):
        render(found, "markdwon")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_draws_an_experiment_that_never_ran(experiment: Experiment, name: str) -> None:
    assert len(render(report(experiment, []), name)) > 500


@pytest.mark.parametrize(
    ("count", "text"),
    [(8_284_000_000, "8.3B"), (740e6, "740M"), (5_190_000, "5.2M"), (98_400, "98k"), (999_900, "1.0M"), (7, "7")],
)
def test_parameter_counts_read_like_the_papers(count: int, text: str) -> None:
    assert parameters(count) == text


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("a_b|c", r"a\_b\|c"),
        ("costs $5, not $6", r"costs \$5, not \$6"),
        ("~~a~~ [b](c) <i> `d`", r"\~\~a\~\~ \[b\](c) \<i\> \`d\`"),
        ("a &amp; b & c", r"a \&amp; b & c"),
        ("one\r\ntwo\u2028three", "one two three"),
    ],
)
def test_markdown_shows_a_text_as_it_is_on_one_line(text: str, literal: str) -> None:
    assert markdown.escape(text) == literal


def table_of(*labels: str, title: str = "t") -> Layout:
    columns = (Column("arm", "[Arm]", numeric=False), Column("mean", "*Score"))
    return Layout(title, "s", "", Grid(columns, tuple((Cell(label), Cell("1.0")) for label in labels)), "", None, ())


def test_no_cell_of_latex_is_taken_for_an_argument_of_what_stands_before_it() -> None:
    text = latex.render(table_of("[2pt] ours", "*x", "[4ex]", "a"))
    assert not re.search(r"(?:\\\\|rule)\s*[\[*]", text)
    assert "{[}2pt] ours & 1.0" in text and "{*}x & 1.0" in text


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("≈ α Ω Β", r"$\approx$ $\alpha$ $\Omega$ $B$"),
        ("naïve Šô", r"na\"{i}ve \v{S}\^{o}"),
        ("x² ½ ﬁne ＡＢ", "x$^2$ 1/2 fine AB"),
        ("--lr << 1 >>", r"-{}-lr \textless{}\textless{} 1 \textgreater{}\textgreater{}"),
        ("a\n\nb\tc", "a b c"),
        ("中 🎉", "U+4E2D U+1F389"),
        ("a\u200bb\ufe0f\x07", "a{}b{}U+0007"),
    ],
)
def test_no_character_acts_or_stops_latex(text: str, literal: str) -> None:
    assert latex.escape(text) == literal


def test_latex_says_which_characters_stand_as_their_codes() -> None:
    text = latex.render(table_of("a 🎉", title="中 and é"))
    assert "% U+4E2D CJK UNIFIED IDEOGRAPH-4E2D: not in the usual fonts" in text
    assert "% U+1F389 PARTY POPPER: not in" in text and "E9" not in text
    assert text.isascii()
