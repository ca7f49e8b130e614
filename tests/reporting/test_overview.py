"""The page over many tables: what is counted over all of them."""

from __future__ import annotations

import pytest

from vlm_ablate.config.expand import restricted
from vlm_ablate.config.experiment import Experiment
from vlm_ablate.reporting import report
from vlm_ablate.reporting.judgement import judgement_notes
from vlm_ablate.reporting.overview import overview
from vlm_ablate.tracking.records import RunRecord


@pytest.mark.parametrize("first", ["figure", "table"])
def test_pairs_of_arms_that_two_tables_share_count_once(
    first: str, experiment: Experiment, runs: list[RunRecord]
) -> None:
    """As Figure 4 has two arms of Table 3: whichever stands first."""
    table = report(experiment, runs)
    figure = report(restricted(experiment, ["ca_lora", "ar_lora"]), runs)
    both = [figure, table] if first == "figure" else [table, figure]
    page = overview(both, "laptop")
    assert page.order == overview([table], "laptop").order
    assert page.order.startswith("Over 1 table, 8 of 9 pairs")
    assert len(page.table.rows) == 2
    assert overview([figure, figure], "laptop").order.startswith("Over 1 table, 1 of 1 pairs")


def test_what_is_visible_of_arms_that_should_be_alike_is_a_margin(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    page = overview([report(experiment, runs)], "laptop")
    assert "the smallest margin that would have been" in dict(page.notes)["Claims"]
    assert dict(judgement_notes(report(experiment, runs)))["Claims"].endswith("within the margin, ±1 point.")
