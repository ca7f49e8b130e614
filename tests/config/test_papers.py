"""The papers' tables as package data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError, UnknownNameError
from vlm_ablate.papers import CellError, find_row, table, table_keys


@pytest.mark.parametrize("key", table_keys())
def test_table_is_complete(key: str) -> None:
    found = table(key)
    assert found.rows and found.caption and found.source and found.finding
    for row in found.rows:
        assert tuple(row) == found.columns, "every row has every column, a dash of the paper as null"


def test_table_3_of_idefics2() -> None:
    scores = [row["avg_score"] for row in table("idefics2_t03").rows]
    assert scores == [51.8, 60.3, 66.7, 67.3, 69.5]
    row = find_row("idefics2_t03", {"architecture": "cross-attention", "backbones": "LoRA"})
    assert (row["total_params"], row["trainable_params"]) == ("10B", "2.5B")


def test_ambiguous_cell_says_what_would_decide() -> None:
    with pytest.raises(CellError, match="names 2 rows of idefics2_t03; add one of backbones"):
        find_row("idefics2_t03", {"architecture": "Cross-attention"})


def test_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="idefics2_t03"):
        table("idefics2_t3")


@pytest.mark.parametrize("shown", ["score: vqa", "columns: [vqa]", "paired: {vqav2: vqa}", "published: true"])
def test_what_a_table_shows_of_a_paper_needs_one(write: Callable[..., Path], shown: str) -> None:
    cells = [("cell: {perceiver_layers: 1}, ", ""), ("cell: {perceiver_layers: 3}", "")]
    none = [("paper: {key: idefics2_t12}\n", ""), *cells]
    load_experiment(write(*none), scale="tiny")
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(*none, ("table:\n", f"table:\n  {shown}\n")), scale="tiny")
    assert [problem.message for problem in caught.value.problems] == [
        "is of a paper's table, but the file names none in paper.key"
    ]
