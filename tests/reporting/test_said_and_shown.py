"""Sentences and short forms of numbers say no more than the numbers do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from vlm_ablate.config.experiment import Arm, Claim, Experiment, TableConfig
from vlm_ablate.reporting import Report, report
from vlm_ablate.reporting.figures import _scientific as scientific
from vlm_ablate.reporting.figures import _si as si
from vlm_ablate.reporting.figures import spread_out
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.layout import lay_out, parameters
from vlm_ablate.reporting.statistics import Verdict
from vlm_ablate.tracking.records import RunRecord

Run = Callable[..., RunRecord]
Score = Callable[..., dict[str, Any]]
Of = Callable[..., Report]


@pytest.fixture
def of(experiment: Experiment, run: Run, score_of: Score) -> Of:
    """A report without claims on these scores of one benchmark: arm -> seed -> score."""

    def made(scores: dict[str, dict[int, float]], claims: tuple[Claim, ...] = ()) -> Report:
        records = [run(a, s, scores=[score_of("vqa", v)]) for a, by in scores.items() for s, v in by.items()]
        return report(experiment.model_copy(update={"table": TableConfig(claims=list(claims))}), records)

    return made


# --- the best arm ----------------------------------------------------------------------------------------------------
def test_without_claims_the_finding_counts_the_arms_that_the_best_is_not_told_from(of: Of) -> None:
    rng = np.random.default_rng(0)
    arms = ("ca", "ca_lora", "ar_lora", "ar_linear")
    for _ in range(30):
        level = {arm: float(rng.normal(40, 1.5)) for arm in arms[: rng.integers(1, 5)]}
        made = of({arm: {s: v + float(rng.normal(0, 0.5)) for s in range(4)} for arm, v in level.items()})
        rows = sorted((row for row in made.rows if row.score()), key=lambda row: -row.score().mean)
        best, told = rows[0], finding(made)
        assert f"“{best.label}”" in told and f"{best.score().mean:.1f}" in told
        alike = sum(best.minus(other).low <= 0 <= best.minus(other).high for other in rows[1:])
        if len(rows) == 1:
            assert told.startswith("Only ")
        elif alike:
            assert told.endswith(f"do not tell it from {alike} other{'s' * (alike > 1)}.")
        else:
            assert f"; the next, “{rows[1].label}”, {rows[1].score().mean:.1f}" in told


def test_an_arm_whose_mean_is_highest_by_its_seeds_alone_is_not_called_the_best_without_a_word(of: Of) -> None:
    """Seed 9 is an easy one, which the other arm was not run with; with each common seed the other arm is better."""
    made = of({"ca": {0: 40.0, 1: 41.2, 2: 41.9, 9: 70.0}, "ca_lora": {0: 43.1, 1: 44.0, 2: 45.2}})
    rows = {row.arm: row for row in made.rows}
    assert rows["ca"].rank == 1 and rows["ca"].rank_range == (2, 2)
    told = finding(made)
    assert told == (
        "“Cross-attention, frozen” scores highest, 48.3; the next, “Cross-attention, LoRA”, 44.1; with common seeds "
        "1 other is better."
    )


# --- claims that could not be judged ---------------------------------------------------------------------------------
def test_a_run_that_finished_without_the_score_of_a_claim_is_not_called_finished_alone(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    records = [run(arm, s, scores=[score_of("vqa", 40.0 + s)]) for arm in ("ca", "ca_lora") for s in range(2)]
    records += [run("ar_lora", s) for s in range(2)]  # with all benchmarks, so that there are four columns
    claim = Claim(text="t", better="ca", worse="ca_lora")
    (row,) = report(experiment.model_copy(update={"table": TableConfig(claims=[claim])}), records).claims
    assert row.verdict == Verdict.not_run
    assert row.reason == "; ".join(
        f"Cross-attention, {how}: finished, but not with every benchmark" for how in ("frozen", "LoRA")
    )
    of_column = claim.model_copy(update={"metric": "text"})
    (row,) = report(experiment.model_copy(update={"table": TableConfig(claims=[of_column])}), records).claims
    assert "Cross-attention, LoRA: finished, but without this score" in row.reason


def test_arms_without_a_common_seed_are_said_to_have_none(of: Of) -> None:
    claim = Claim(text="t", better="ca", worse="ca_lora")
    (row,) = of({"ca": {0: 40.0, 1: 41.0}, "ca_lora": {2: 30.0, 3: 31.0}}, (claim,)).claims
    assert (row.verdict, row.reason) == (Verdict.not_run, "no common seed")


def test_of_runs_without_a_record_of_their_data_it_is_not_said_that_they_saw_the_same(
    experiment: Experiment, run: Run
) -> None:
    """As of weights that somebody else trained."""
    foreign = [run("ca", seed, tags={"vlm.data_fingerprint": ""}) for seed in range(2)]
    ours = [run("ar_lora", seed) for seed in range(2)]
    told = [dict(report(experiment, some).notes)["Training data"] for some in (ours, [*ours, *foreign])]
    assert told[0].startswith("all arms of a seed saw the same data in the same order (")
    assert told[1].startswith("all arms of a seed whose data were recorded saw the same data in the same order (")


# --- rows of the paper -----------------------------------------------------------------------------------------------
def test_published_rows_show_their_scores_also_where_no_arm_stands_for_one(experiment: Experiment, run: Run) -> None:
    update = {"arms": {"ca": Arm(label="Our own")}, "table": TableConfig(published=True)}
    made = report(experiment.model_copy(update=update), [run("ca", 0), run("ca", 1)])
    table = lay_out(made).table
    at = [column.key for column in table.columns].index("paper_score")
    assert [row[at].text for row in table.rows] == ["51.8", "60.3", "66.7", "67.3", "69.5", "–"]
    assert [row[at].bold for row in table.rows] == [False, False, False, False, True, False]


# --- short forms -----------------------------------------------------------------------------------------------------
UNITS = {"B": 1e9, "M": 1e6, "k": 1e3, "": 1.0}


def value_of(text: str) -> float:
    unit = text[-1] if text[-1].isalpha() else ""
    return float(text.removesuffix(unit)) * UNITS[unit]


def test_parameter_counts_are_rounded_and_never_out_of_order() -> None:
    rng = np.random.default_rng(1)
    counts = sorted({int(10 ** rng.uniform(0, 11)) for _ in range(400)} | {0, 999, 1000, 9949, 9950, 999_499, 999_500})
    texts = [parameters(count) for count in counts]
    for count, text in zip(counts, texts, strict=True):
        assert abs(value_of(text) - count) <= 0.0501 * max(count, 1) and len(text) <= 4
    assert all(value_of(a) <= value_of(b) for a, b in pairwise(texts))


def test_ticks_say_their_value() -> None:
    raised = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
    rng = np.random.default_rng(2)
    for value in 10 ** rng.uniform(-3, 18, 100):
        mantissa, _, exponent = scientific(value).partition("·10")
        assert float(f"{mantissa}e{exponent.translate(raised)}") == pytest.approx(value, rel=0.051)
        assert 1 <= float(mantissa) < 10
        assert value_of(si(round(value, 3))) == pytest.approx(round(value, 3), rel=1e-5) or "e" in si(value)


# --- names beside curves ---------------------------------------------------------------------------------------------
def test_names_stand_as_near_to_their_curves_as_they_can() -> None:
    """The least sum of squared distances in which none overlap, by scipy's isotonic regression."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        wanted, heights = rng.uniform(0, 1, rng.integers(1, 9)), rng.uniform(0.02, 0.3, 8)
        heights = heights[: len(wanted)]
        order = np.argsort(wanted, kind="stable")
        below = np.cumsum(heights[order]) - heights[order] / 2
        best = isotonic_regression(wanted[order] - below).x + below
        placed = np.array(spread_out(list(wanted), list(heights)))
        assert placed[order] == pytest.approx(best)
        some = rng.permutation(len(wanted))
        assert spread_out(list(wanted[some]), list(heights[some])) == pytest.approx(list(placed[some]))
        inside = np.array(spread_out(list(wanted), list(heights), 0.0, float(heights.sum()) + 0.01))[order]
        tall = heights[order]
        assert inside[0] - tall[0] / 2 > -1e-9 and inside[-1] + tall[-1] / 2 < heights.sum() + 0.01 + 1e-9
        assert all(np.diff(inside) >= (tall[1:] + tall[:-1]) / 2 - 1e-9)
