"""Every shipped experiment file gives a table in every format, with made-up scores of all its arms."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.reading import ReadHtml, blanks, read_latex, read_markdown
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.reporting import render, report
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.statistics import Verdict
from vlm_ablate.tracking.records import RunRecord

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = [
    file
    for file in sorted(FOLDER.glob("*/*.yaml"))
    if file.parent.name not in ("scales", "sweeps") and not file.name.startswith("_")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_experiment_is_reported_in_every_format(
    file: Path, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]
) -> None:
    loaded = load_experiment(file)
    experiment = loaded.experiment
    columns = list(experiment.evaluation.benchmarks)
    records = [
        run(arm, seed, scores=[score_of("vqa", 30 + 3 * i + seed + seed * i / 9.0) | {"column": c} for c in columns])
        for i, arm in enumerate(experiment.arms) for seed in range(3)
    ]  # fmt: skip
    made = report(experiment, records)
    assert [row.arm for row in made.rows] == list(experiment.arms) and list(made.columns) == columns
    labels = [row.label for row in made.rows]
    assert len(set(labels)) == len(labels), "no two arms are called alike"
    layout = lay_out(made)
    for written, claim in zip(experiment.table.claims, made.claims, strict=True):
        told = [(c.better, c.worse, c.difference.n) for c in claim.comparisons]
        by_arm = {row.arm: row for row in made.rows}
        arms = [by_arm[arm].label for arm in written.arms]
        assert told == [(a, b, 3) for a, b in pairwise(arms)]
        silent = "laptop" in written.untested
        assert (claim.verdict == Verdict.says_nothing) == silent and claim.verdict != Verdict.not_run
        # What the paper finds better is so in its own table, too, unless the claim is that it hardly is.
        for c in claim.comparisons if written.relation == "better" and written.paper_gain is None else ():
            assert c.paper_gain is None or c.paper_gain > 0, written.text
    assert len(made.published) + len(made.rows) == len(layout.table.rows)
    of_paper = {id(row) for row in made.paper.rows} if made.paper and experiment.table.published else set()
    assert {id(row.cell) for row in made.published} == of_paper - {id(row.cell) for row in made.rows}
    pages = {name: str(render(made, name)) for name in ("markdown", "html", "latex", "csv")}
    (read, *_), items = read_markdown(pages["markdown"])
    assert read[1:] == [[blanks(c.plain) for c in row] for row in (*layout.table.rows, *layout.table.foot)]
    assert len(items) == len(layout.notes) == len(ReadHtml(pages["html"]).notes)
    assert [len(part) for part in read_latex(pages["latex"])] == [
        len(grid.rows) + len(grid.foot) for grid in (layout.table, layout.claims) if grid
    ]
    lines = list(csv.DictReader(io.StringIO(pages["csv"])))
    assert len(lines) == len(made.rows) * (1 + len(columns)) + len(made.published)
    assert not any(word in text for text in pages.values() for word in ("None", "nan ", "Traceback"))
    assert "U+" not in pages["latex"], "all signs of shipped texts are in the usual fonts"
    assert finding(made)
