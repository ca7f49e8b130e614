"""Claims from records: how they are judged, and where a benchmark says nothing about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vlm_ablate.config.experiment import Claim, Experiment, TableConfig
from vlm_ablate.reporting import render, report
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.judgement import judgement_notes
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.statistics import Verdict, holm
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import Point, RunRecord

Run = Callable[..., RunRecord]
Score = Callable[..., dict]


def with_table(experiment: Experiment, **table: Any) -> Experiment:
    return experiment.model_copy(update={"table": TableConfig(**table)})


def test_claims_are_judged_on_paired_seeds(experiment: Experiment, runs: list[RunRecord]) -> None:
    verdicts = [c.verdict for c in report(experiment, runs).claims]
    assert verdicts == [Verdict.contradicts, Verdict.agrees, Verdict.agrees, Verdict.contradicts]


def test_the_papers_gain_comes_from_its_table_unless_written(experiment: Experiment, runs: list[RunRecord]) -> None:
    gains = [c.comparisons[0].paper_gain for c in report(experiment, runs).claims]
    assert gains == [pytest.approx(6.4), pytest.approx(2.2), 8.5, pytest.approx(0.6)]


def test_a_claim_that_the_stand_ins_cannot_test_says_why_and_counts_for_no_other(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    pairs = [{"better": "ar_lora", "worse": "ca"}, {"better": "ar_perceiver", "worse": "ar_linear"}]
    tested, other = (Claim(text="is better", **pair) for pair in pairs)
    void = tested.model_copy(update={"untested": {"laptop": "both are the same here"}})
    found = report(with_table(experiment, claims=[void, other]), runs)
    claims = found.claims
    assert (found.order.pairs, found.order.left_out) == (9, 1)
    assert lay_out(found).order.endswith("Not counted: 1 pair that these runs cannot test.")
    assert (claims[0].verdict, claims[0].reason) == (Verdict.says_nothing, "both are the same here")
    assert claims[0].difference is not None and claims[0].comparisons[0].p is None
    assert claims[1].comparisons[0].p_holm == claims[1].comparisons[0].p
    likeness = Claim(text="is alike", better="ca_lora", worse="ca", relation="similar", untested={"laptop": "no"})
    notes = dict(judgement_notes(report(with_table(experiment, claims=[likeness, other]), runs)))
    assert "Similar" not in notes["Claims"] and "equivalence" not in notes["Power"]
    elsewhere = tested.model_copy(update={"untested": {"workstation": "both are the same there"}})
    assert report(with_table(experiment, claims=[elsewhere]), runs).claims[0].verdict == Verdict.agrees


def test_holm_covers_the_comparisons_that_were_tested(experiment: Experiment, runs: list[RunRecord]) -> None:
    comparisons = [c for claim in report(experiment, runs).claims for c in claim.comparisons]
    assert [c.p_holm for c in comparisons] == holm([c.p for c in comparisons])


def test_claim_on_one_column(experiment: Experiment, runs: list[RunRecord]) -> None:
    claim = Claim(text="reads better", better="ar_lora", worse="ca", metric="text")
    judged = report(experiment.model_copy(update={"table": TableConfig(claims=[claim])}), runs).claims[0]
    assert judged.verdict == Verdict.agrees
    assert judged.comparisons[0].paper_gain is None  # the paper's table has no such column
    assert judged.difference.mean == pytest.approx(12.5, abs=2)


def test_an_order_agrees_when_each_step_does(experiment: Experiment, runs: list[RunRecord]) -> None:
    order = Claim(text="better and better", order=["ar_lora", "ar_perceiver", "ar_linear"], source="table 3")
    claim = report(with_table(experiment, claims=[order]), runs).claims[0]
    assert [(c.better, c.worse) for c in claim.comparisons] == [
        ("Fully autoregressive (Perceiver), LoRA", "Fully autoregressive (Perceiver), frozen"),
        ("Fully autoregressive (Perceiver), frozen", "Fully autoregressive, no Perceiver, frozen"),
    ]
    assert (claim.verdict, claim.reason, claim.source) == (Verdict.agrees, "", "table 3")
    assert [c.paper_gain for c in claim.comparisons] == [pytest.approx(9.2), pytest.approx(8.5)]


def test_an_order_is_contradicted_by_one_step(experiment: Experiment, runs: list[RunRecord]) -> None:
    order = Claim(text="as in the paper", order=["ar_lora", "ca", "ar_perceiver"])
    claim = report(with_table(experiment, claims=[order]), runs).claims[0]
    assert (claim.verdict, claim.reason) == (Verdict.contradicts, "1 of 2 steps hold")


def test_a_verdict_holds_after_the_correction(experiment: Experiment, run: Run, score_of: Score) -> None:
    scores = {"ca": [50.0, 51.0, 52.2], "ar_perceiver": [47.0, 48.3, 49.0]}
    records = [run(a, s, scores=[score_of("vqa", v)]) for a, vs in scores.items() for s, v in enumerate(vs)]
    lone = Claim(text="alone", better="ca", worse="ar_perceiver")
    few = report(with_table(experiment, claims=[lone]), records).claims[0]
    many = report(with_table(experiment, claims=[lone] * 40), records).claims[0]
    assert few.verdict == Verdict.agrees
    assert (many.verdict, many.reason) == (Verdict.not_separable, "settled alone, not after Holm's correction")
    assert few.difference == many.difference


def test_hardly_changes_is_shown_within_the_margin_only(experiment: Experiment, run: Run, score_of: Score) -> None:
    scores = {"ca": [50.0, 51.0, 52.2], "ca_lora": [50.1, 51.2, 52.1]}
    records = [run(a, s, scores=[score_of("vqa", v)]) for a, vs in scores.items() for s, v in enumerate(vs)]
    for margin, verdict in ((None, Verdict.agrees), (0.01, Verdict.not_separable)):
        claim = Claim(text="alike", better="ca_lora", worse="ca", relation="similar", margin=margin)
        assert report(with_table(experiment, claims=[claim]), records).claims[0].verdict == verdict


@pytest.mark.parametrize("relation", ["better", "similar"])
def test_the_same_difference_with_every_seed_settles_nothing(
    experiment: Experiment, run: Run, score_of: Score, relation: str
) -> None:
    scores = {"ca": [50.0, 51.5], "ca_lora": [50.5, 52.0]}  # coarse scores: half a point of 200 items
    records = [run(a, s, scores=[score_of("vqa", v)]) for a, vs in scores.items() for s, v in enumerate(vs)]
    claim = Claim(text="told", better="ca_lora", worse="ca", relation=relation)
    found = report(with_table(experiment, claims=[claim]), records)
    told = "the same difference with every seed gives no interval"
    assert (found.claims[0].verdict, found.claims[0].reason) == (Verdict.not_separable, told)
    assert {row.rank_range for row in found.rows if row.rank} == {(1, 2)}


def test_each_comparison_says_what_it_could_have_seen(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(experiment, runs)
    assert all(c.visible > 0 for claim in found.claims for c in claim.comparisons)
    assert "with a chance of 80 %" in render(found, "markdown")


def test_an_arm_at_the_blind_floor_says_nothing(experiment: Experiment, run: Run, score_of: Score) -> None:
    values = {"ca": 40.0, "ar_perceiver": 10.5}
    records = [
        run(arm, seed, scores=[score_of("vqa", value + seed * value / 100), score_of("vqa", 10.0, blind=True)])
        for arm, value in values.items() for seed in range(3)
    ]  # fmt: skip
    found = report(experiment, records)
    assert found.claims[0].verdict == Verdict.says_nothing
    assert found.claims[0].reason == "Fully autoregressive (Perceiver), frozen sits at the blind floor"
    assert ("Says nothing", "the mean: at the blind floor: Fully autoregressive (Perceiver), frozen.") in (
        lay_out(found).notes
    )


def test_a_step_that_says_nothing_settles_nothing(experiment: Experiment, run: Run, score_of: Score) -> None:
    values = {"ca_lora": 70.0, "ca": 40.0, "ar_perceiver": 10.5}
    records = [
        run(arm, seed, scores=[score_of("vqa", value + seed / (9 - i)), score_of("vqa", 10.0, blind=True)])
        for i, (arm, value) in enumerate(values.items()) for seed in range(3)
    ]  # fmt: skip
    order = Claim(text="better and better", order=list(values))
    found = report(with_table(experiment, claims=[order]), records)
    assert found.claims[0].verdict == Verdict.says_nothing
    assert [c.outcome for c in found.claims[0].comparisons] == [Verdict.agrees, Verdict.says_nothing]
    floored = Claim(text="better", better="ca", worse="ar_perceiver")
    told = finding(report(with_table(experiment, claims=[floored]), records))
    assert told == "The one claim is not tested by these runs; no difference was settled."


def test_an_arm_at_the_ceiling_says_nothing(experiment: Experiment, runs: list[RunRecord]) -> None:
    (best,) = [row for row in report(experiment, runs).rows if row.arm == "ar_lora"]
    ceiling = {column: best.score(column).mean for column in ("vqa", "knowledge", "text", "captions")}
    claims = report(experiment, runs, ceiling=ceiling).claims
    assert [c.verdict == Verdict.says_nothing for c in claims] == [False, True, False, False]


def test_a_ceiling_that_an_arm_passes_is_none(experiment: Experiment, runs: list[RunRecord]) -> None:
    told = report(experiment, runs, ceiling=dict.fromkeys(("vqa", "knowledge", "text", "captions"), 20.0))
    assert all(health.passed and not health.at_ceiling for health in told.health.values())
    assert [c.verdict for c in told.claims] == [c.verdict for c in report(experiment, runs).claims]


def test_a_ceiling_that_is_no_number_is_none(experiment: Experiment, runs: list[RunRecord]) -> None:
    columns = ("vqa", "knowledge", "text", "captions")
    told = [replace(r, metrics={**r.metrics, **{schema.ceiling_metric(c): 20.0 for c in columns}}) for r in runs]
    broken = replace(told[0], metrics={**told[0].metrics, schema.ceiling_metric("vqa"): math.nan})
    found = report(experiment, [broken, *told[1:]])
    assert found.ceiling == report(experiment, told).ceiling == dict.fromkeys((*columns, "mean"), 20.0)
    assert all(health.passed for health in found.health.values())


def test_a_score_that_does_not_rise_in_training_says_nothing(experiment: Experiment, runs: list[RunRecord]) -> None:
    def told(values: list[float]) -> set[Verdict]:
        history = {"curve/mean": [Point(step, v, 0) for step, v in enumerate(values)]}
        return {c.verdict for c in report(experiment, runs, histories={r.run_id: history for r in runs}).claims}

    assert told([9.0, 12.0, 20.0, 19.0]) == {Verdict.agrees, Verdict.contradicts}
    assert told([20.0, 12.0, 9.0, 19.0]) == {Verdict.says_nothing}


def test_an_arm_at_the_floor_does_not_say_that_the_others_do_not_rise(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    """Nothing rises there; a comparison of two others is none of its business."""
    levels = {"ar_linear": 10.1, "ca": 9.9, "ar_perceiver": 9.8, "ca_lora": 31.0, "ar_lora": 44.0}
    runs = [
        run(arm, seed, scores=[score_of("vqa", value + seed / (9 - i)), score_of("vqa", 10.0, blind=True)])
        for seed in range(3)
        for i, (arm, value) in enumerate(levels.items())
    ]
    histories = {
        r.run_id: {"curve/mean": [Point(step, step * float(levels[r.arm] > 20), 0) for step in range(4)]} for r in runs
    }
    found = report(experiment, runs, histories=histories)
    assert found.health["mean"].rising == 1.0 and len(found.health["mean"].at_floor) == 3
    assert [claim.verdict for claim in found.claims[:2]] == [Verdict.says_nothing, Verdict.agrees]


def test_a_difference_over_fewer_seeds_than_an_arm_has_says_so(experiment: Experiment, runs: list[RunRecord]) -> None:
    fewer = [r for r in runs if (r.arm, r.seed) not in {("ca", 1), ("ar_linear", 1), ("ar_linear", 2)}]
    claims = [
        Claim(text="two", better="ca", worse="ar_perceiver"),
        Claim(text="full", better="ar_lora", worse="ca_lora"),
        Claim(text="order", order=["ar_lora", "ar_perceiver", "ar_linear"]),
    ]
    two, full, order = report(with_table(experiment, claims=claims), fewer).claims
    assert two.reason.startswith("over 2 common seeds, of 2 and 3") and "common" not in full.reason
    names = "Fully autoregressive (Perceiver), frozen and Fully autoregressive, no Perceiver, frozen"
    assert f"{names}: over 1 common seed, of 3 and 1" in order.reason
