"""From records to the report model: what is shown, and what is refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from vlm_ablate.config.expand import restricted
from vlm_ablate.config.experiment import Arm, Claim, Experiment, PaperRef, TableConfig
from vlm_ablate.errors import DataError, UnknownNameError, VlmAblateError
from vlm_ablate.papers import find_row
from vlm_ablate.reporting import frame, render, report
from vlm_ablate.reporting.frame import ArmRow, Report
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.statistics import Verdict, estimate
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, Point, RunRecord

Run = Callable[..., RunRecord]
Score = Callable[..., dict]


def row_of(found: Report, arm: str) -> ArmRow:
    return next(row for row in found.rows if row.arm == arm)


def without(runs: list[RunRecord], arm: str) -> list[RunRecord]:
    return [r for r in runs if r.arm != arm]


def test_a_row_holds_the_papers_row_and_our_mean(experiment: Experiment, runs: list[RunRecord]) -> None:
    row = row_of(report(experiment, runs), "ar_lora")
    means = [fmean(s["score"] for s in r.scores if not s["blind"]) for r in runs if r.arm == "ar_lora"]
    assert row.cell["trainable_params"] == "950M"
    assert (row.paper_score, row.paper_rank, row.rank) == (69.5, 1, 1)
    assert row.score() == estimate(means)
    assert row.floor().mean < row.score().mean
    assert (row.total_parameters, row.trainable_parameters) == (3_050_000, 98_400)


def test_rows_keep_the_order_of_the_file(experiment: Experiment, runs: list[RunRecord]) -> None:
    assert [r.arm for r in report(experiment, reversed(runs)).rows] == list(experiment.arms)


def test_order_of_arms(experiment: Experiment, runs: list[RunRecord]) -> None:
    order = report(experiment, runs).order
    assert (order.concordant, order.tied, order.pairs) == (8, 1, 10), "the paper calls one pair alike"


def test_demonstrations_that_an_encoder_finds_are_not_called_the_same_for_all(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    by = "nearest:siglip"
    found = [replace(r, scores=[{**s, "demonstrations": by} for s in r.scores]) for r in runs]
    told = [dict(report(experiment, some).notes)["Demonstrations"] for some in (runs, found)]
    assert told[0] == "random, seed 0; the same for all arms and seeds."
    assert told[1] == "nearest:siglip, seed 0; nearest by the features of each run's own encoder."


def test_the_floor_is_the_highest_blind_score_of_any_arm(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(experiment, runs)
    assert found.floor["text"] == max(row.floor("text").mean for row in found.rows)
    assert set(found.floor) == {*found.columns, "mean"}


def test_one_seed_has_no_interval_and_settles_nothing(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(experiment, [r for r in runs if r.seed == 0])
    assert all(row.score().half_width is None for row in found.rows)
    assert {c.verdict for c in found.claims} == {Verdict.not_separable}
    assert "1 seed" in dict(found.notes)["Intervals"]


def test_arms_that_were_not_run_stand_in_the_table(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(experiment, without(runs, "ca"))
    row = row_of(found, "ca")
    assert (row.status, row.score(), row.rank, row.paper_score) == ("not run", None, None, 66.7)
    assert found.claims[0].verdict == Verdict.not_run
    assert found.order.arms == 4


def test_nothing_run_at_all(experiment: Experiment) -> None:
    found = report(experiment, [])
    assert {row.status for row in found.rows} == {"not run"}
    assert (found.scale, found.order, found.columns) == ("", None, ("vqa", "knowledge", "text", "captions"))


def test_a_diverged_arm_is_a_result(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    lost = [run("ar_linear", seed, status="diverged") for seed in range(3)]
    found = report(experiment, [*without(runs, "ar_linear"), *lost])
    assert row_of(found, "ar_linear").status == "diverged"
    claim = found.claims[2]
    assert (claim.verdict, claim.difference) == (Verdict.agrees, None)
    assert "diverged with all 3 seeds" in claim.reason


def test_one_diverged_seed_is_left_out_and_told(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    kept = [r for r in runs if (r.arm, r.seed) != ("ca", 1)]
    found = report(experiment, [*kept, run("ca", 1, status="diverged")])
    row = row_of(found, "ca")
    assert (row.status, row.score().n) == ("finished", 2)
    assert found.claims[0].difference.n == 2
    assert "1 of 3 diverged" in found.claims[0].reason
    assert any(subject == row.label and "1 diverged" in text for subject, text in found.notes)


def test_a_skipped_arm_tells_why(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    why = {"vlm.message": "needs the package efficientnet"}
    skipped = [run("ca", seed, status="skipped", tags=why) for seed in range(3)]
    found = report(experiment, [*without(runs, "ca"), *skipped])
    assert row_of(found, "ca").status == "skipped"
    assert any("needs the package efficientnet" in text for _, text in found.notes)


def test_several_scales_must_be_chosen_from(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    both = [*runs, run("ca", 0, scale="workstation")]
    with pytest.raises(VlmAblateError, match=r"laptop \(15 runs\), workstation \(1 runs?\)"):
        report(experiment, both)
    assert report(experiment, both, "workstation").scale == "workstation"
    assert row_of(report(experiment, both, "laptop"), "ca").score().n == 3


def test_a_scale_that_was_not_run(experiment: Experiment, runs: list[RunRecord]) -> None:
    with pytest.raises(UnknownNameError, match="laptop"):
        report(experiment, runs, "labtop")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("split_hash", "ffff"),
        ("template", "vqa/2"),
        ("shots", 8),
        ("demonstration_seed", 1),
        ("scorer_version", "2"),
        ("items", 300),
        ("split", "tune"),
    ],
)
def test_unlike_scores_never_share_a_column(
    experiment: Experiment, runs: list[RunRecord], score_of: Score, field: str, value: object
) -> None:
    scores = [s if s["column"] != "text" else score_of("text", 40.0, **{field: value}) for s in runs[7].scores]
    unlike = [*runs[:7], replace(runs[7], scores=scores), *runs[8:]]
    with pytest.raises(DataError) as error:
        report(experiment, unlike)
    for part in ("'text'", runs[0].name, runs[7].name, field, repr(value)):
        assert part in str(error.value)


def test_a_blind_score_of_another_protocol_is_refused(
    experiment: Experiment, runs: list[RunRecord], score_of: Score
) -> None:
    changed = replace(runs[0], scores=[*runs[0].scores[:4], score_of("vqa", 9.0, blind=True, shots=0)])
    with pytest.raises(DataError, match="shots is 4 and 0"):
        report(experiment, [changed, *runs[1:]])


def test_seeds_of_one_arm_share_their_configuration(experiment: Experiment, runs: list[RunRecord]) -> None:
    short = replace(runs[5], params=runs[5].params | {"stages.train.steps": "50"})
    with pytest.raises(DataError, match=r"stages\.train\.steps is 400 and 50"):
        report(experiment, [*runs[:5], short, *runs[6:]])


def test_records_of_another_configuration_are_left_out(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    old = run("ca", 0, scores=[], tags={schema.RUN: "old"}, start_time=9999)
    found = report(experiment, [*runs, old], ids={r.id for r in runs})
    assert row_of(found, "ca").score().n == 3
    assert dict(found.notes)["Left out"].startswith("1 run ")


def test_remarks_that_records_cannot_give_stand_last(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(experiment, runs, remarks=[("Set by hand", "a=1.")])
    assert found.notes[-1] == ("Set by hand", "a=1.") and len(found.notes) > 1


def test_some_arms_are_ranked_and_judged_among_themselves(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = report(restricted(experiment, ["ca", "ar_perceiver"]), runs)
    assert [(row.arm, row.paper_rank, row.rank) for row in found.rows] == [("ar_perceiver", 2, 1), ("ca", 1, 2)]
    assert [claim.text for claim in found.claims] == ["Cross-attention wins with frozen backbones"]
    assert found.order.arms == 2 and not any(subject == "Left out" for subject, _ in found.notes)
    assert found.run_ids == {r.run_id for r in runs if r.arm in ("ca", "ar_perceiver")}


def test_of_reruns_the_latest_that_ended_counts(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    first = next(r for r in runs if (r.arm, r.seed) == ("ca", 0))
    higher = [s | {"score": s["score"] + 10} for s in first.scores]
    again = replace(first, run_id="again", scores=higher, start_time=5000)
    interrupted = run("ca", 0, status="running", start_time=9000)
    before, after = (report(experiment, [*runs, *more]) for more in ([], [again, interrupted]))
    gained = row_of(after, "ca").scores["mean"][0] - row_of(before, "ca").scores["mean"][0]
    assert gained == pytest.approx(10)


def test_a_run_without_one_benchmark_has_no_mean(experiment: Experiment, runs: list[RunRecord]) -> None:
    partial = replace(runs[0], scores=[s for s in runs[0].scores if s["column"] != "text"])
    row = row_of(report(experiment, [partial, *runs[1:]]), runs[0].arm)
    assert (row.score().n, row.score("vqa").n) == (2, 3)


def test_a_seed_without_one_benchmark_is_told(experiment: Experiment, runs: list[RunRecord]) -> None:
    def without(run: RunRecord) -> RunRecord:
        return replace(run, scores=[s for s in run.scores if s["column"] != "text"])

    one = report(experiment, [without(r) if (r.arm, r.seed) == ("ca", 2) else r for r in runs])
    label = row_of(one, "ca").label
    assert (label, "2 seeds scored, 1 finished without every benchmark.") in one.notes
    none = report(experiment, [without(r) if r.arm == "ca" else r for r in runs])
    assert row_of(none, "ca").score() is None
    assert (label, "0 seeds scored, 3 finished without every benchmark.") in none.notes


def test_unreadable_answers_are_shown(experiment: Experiment, runs: list[RunRecord]) -> None:
    scores = [s | {"unparsed": 7} if s["column"] == "vqa" and not s["blind"] else s for s in runs[0].scores]
    found = report(experiment, [replace(runs[0], scores=scores), *runs[1:]])
    note = dict(found.notes)["Unreadable answers (counted as wrong)"]
    assert note == f"{found.rows[0].label}: vqa 7 of 1200."


def test_an_arm_beside_the_papers(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    arms = {**experiment.arms, "full": Arm(label="Autoregressive, fully trained", note="the paper reports divergence")}
    extended = experiment.model_copy(update={"arms": arms})
    found = report(extended, [*runs, run("full", 0, status="diverged")])
    row = row_of(found, "full")
    assert (row.cell, row.paper_score, row.status) == (None, None, "diverged")
    assert ("Autoregressive, fully trained", "the paper reports divergence") in found.notes


def test_a_benchmark_that_stands_in_has_its_own_name(experiment: Experiment, run: Run) -> None:
    found = report(experiment, [run("ca", 0)])
    assert found.headings == {"vqa": "offline vqa", "knowledge": "knowledge", "text": "text", "captions": "captions"}


def test_values_that_the_scale_changed_are_told(experiment: Experiment, run: Run) -> None:
    changed = ['{"model.connector.latents": "64 -> 8"}', '{"model.connector.latents": "128 -> 16"}']
    arms = zip(("ca", "ar_lora"), changed, strict=True)
    found = report(experiment, [run(arm, 0, tags={"vlm.scaled": what}) for arm, what in arms])
    assert dict(found.notes)["Scaled"] == "model.connector.latents 64 -> 8 or 128 -> 16."


def test_what_the_scale_changed_in_all_stages_is_told_once(experiment: Experiment, run: Run) -> None:
    changed = {
        "stages.pretrain.steps": "6000 -> 400", "stages.pretrain.precision": "bf16 -> fp32",
        "stages.finetune.steps": "500 -> 50", "stages.finetune.precision": "bf16 -> fp32",
    }  # fmt: skip
    found = report(experiment, [run("ca", 0, tags={"vlm.scaled": json.dumps(changed)})])
    assert dict(found.notes)["Scaled"] == (
        "stages.pretrain.steps 6000 -> 400; stages.*.precision bf16 -> fp32; stages.finetune.steps 500 -> 50."
    )


def test_columns_that_one_benchmark_stands_in_for_are_told_apart(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    stand_ins = {f"evaluation.benchmarks.{c}.benchmark": f"{c} -> offline_pages" for c in ("vqa", "text")}
    scores = [score_of("vqa", 40.0, benchmark="offline_pages"), score_of("text", 60.0, benchmark="offline_pages")]
    evaluation = experiment.evaluation.model_copy(update={"benchmarks": dict.fromkeys(("vqa", "text"))})
    asked = experiment.model_copy(update={"evaluation": evaluation})
    found = report(asked, [run("ca", 0, scores=scores, tags={"vlm.stand_ins": json.dumps(stand_ins)})])
    assert found.headings == {"vqa": "offline pages (vqa)", "text": "offline pages (text)"}


def test_a_stand_in_of_some_arms_names_them(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    other = [run("ca", s, tags={"vlm.stand_ins": '{"model.vision": "EVA-CLIP-5B -> ppocr-v4"}'}) for s in range(3)]
    notes = report(experiment, [*without(runs, "ca"), *other]).notes
    assert ("Stand-in", "vision: EVA-CLIP-5B -> ppocr-v4 (in Cross-attention, frozen)") in notes


def test_the_data_are_compared_between_the_arms_of_a_seed(experiment: Experiment, run: Run) -> None:
    def note(prints: dict[tuple[str, int], str]) -> str:
        found = [run(arm, seed, tags={"vlm.data_fingerprint": text}) for (arm, seed), text in prints.items()]
        return dict(report(experiment, found).notes)["Training data"]

    alike = {("ca", 0): "aa", ("ar_lora", 0): "aa", ("ca", 1): "bb", ("ar_lora", 1): "bb"}
    assert note(alike).endswith("saw the same data in the same order (fingerprints: seed 0: aa; seed 1: bb).")
    assert note(alike | {("ca", 1): "cc"}).startswith("the arms of seed 1 did not see the same data")
    # Of several stages, of which the first may be shared.
    staged = {("ca", 0): "a" * 16 + ",b", ("ar_lora", 0): "a" * 16 + ",c"}
    said = "the arms of seed 0 did not see the same data (fingerprints: seed 0: {0} + b and {0} + c)."
    assert note(staged) == said.format("a" * 12)
    assert note(staged | {("ca", 0): "a" * 16 + ",c"}).startswith("all arms of a seed saw the same data")


def test_a_run_that_diverged_in_an_early_stage_saw_the_same_data_as_far_as_it_came(
    experiment: Experiment, run: Run
) -> None:
    def note(diverged: str) -> str:
        lost = run("ca", 0, status="diverged", tags={"vlm.data_fingerprint": diverged})
        others = [run(arm, 0, tags={"vlm.data_fingerprint": "a,b"}) for arm in ("ar_lora", "ca_lora")]
        return dict(report(experiment, [lost, *others]).notes)["Training data"]

    assert note("a") == "all arms of a seed saw the same data in the same order (fingerprints: seed 0: a + b)."
    assert note("aa").startswith("the arms of seed 0 did not see the same data")


def test_a_run_that_has_not_ended_tells_nothing_of_the_data(experiment: Experiment, run: Run) -> None:
    going = run("ca", 0, status="running", tags={"vlm.data_fingerprint": "aa"})
    done = run("ar_lora", 0, tags={"vlm.data_fingerprint": "aa,bb"})
    assert "all arms of a seed saw the same" in dict(report(experiment, [going, done]).notes)["Training data"]


def test_a_run_that_was_stopped_is_called_so(experiment: Experiment, runs: list[RunRecord], run: Run) -> None:
    found = report(experiment, [*without(runs, "ca"), *(run("ca", seed, status="stopped") for seed in range(3))])
    assert row_of(found, "ca").status == "stopped"
    one = report(experiment, [*without(runs, "ca"), run("ca", 0), run("ca", 1, status="stopped")])
    assert row_of(one, "ca").status == "finished"


def test_a_stand_in_of_two_stages_is_told_once_with_all_its_arms(experiment: Experiment, run: Run) -> None:
    def made(arm: str, *stages: str) -> RunRecord:
        told = {f"stages.{stage}.data.mixture.web.source": "OBELICS -> offline" for stage in stages}
        return run(arm, tags={"vlm.stand_ins": json.dumps(told)})

    found = report(experiment, [made("ca", "one", "two"), made("ca_lora", "one"), made("ar_lora", "two")])
    assert [text for subject, text in found.notes if subject == "Stand-in"] == ["source: OBELICS -> offline"]


def test_pairs_that_the_paper_does_not_tell_apart_are_out_of_the_order(
    experiment: Experiment, runs: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {arm: dict(find_row("idefics2_t03", written.cell or {})) for arm, written in experiment.arms.items()}
    tied = {id(row): row for row in cells.values()}
    cells["ar_perceiver"]["avg_score"] = cells["ar_linear"]["avg_score"]
    assert len(tied) == 5
    monkeypatch.setattr(frame, "find_row", lambda _, cell: next(c for c in cells.values() if cell.items() <= c.items()))
    order = lay_out(report(experiment, runs)).order
    assert order.startswith("Order of arms: 7 of 8 pairs stand in the paper's order")
    assert order.endswith("Not counted: 2 pairs that the paper does not tell apart."), "one of them by its claim"


def test_what_holds_for_several_arms_is_said_once(experiment: Experiment, run: Run) -> None:
    some = [run(arm, 0) for arm in ("ca", "ca_lora")] + [run("ar_lora", seed) for seed in range(3)]
    notes = report(experiment, some).notes
    assert ("Cross-attention, frozen; Cross-attention, LoRA", "1 seed scored, 2 not run.") in notes
    every = report(experiment, [run(arm, 0) for arm in experiment.arms]).notes
    assert ("All arms", "1 seed scored, 2 not run.") in every


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "'score' must be a finite number, not nan"),
        ({"score": "high"}, "'score' must be a finite number, not 'high'"),
        ({"items": "12"}, "'items' must be a whole number, not '12'"),
        ({"column": None}, "'column' must be a text, not None"),
        ({"blind": 0}, "'blind' must be a truth value, not 0"),
    ],
)
def test_a_foreign_score_is_one_line_that_names_run_and_field(
    experiment: Experiment, runs: list[RunRecord], change: dict[str, Any], message: str
) -> None:
    bad = replace(runs[0], scores=[runs[0].scores[0] | change, *runs[0].scores[1:]])
    with pytest.raises(DataError) as caught:
        report(experiment, [bad, *runs[1:]])
    assert str(caught.value) == f"run {bad.name!r}: a score record's {message}"


def test_an_order_that_more_training_changes_is_shown_at_both_budgets(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    rising = {"ca": [10.0, 20.0, 30.0, 40.0], "ar_lora": [10.0, 30.0, 34.0, 35.0]}
    histories = {
        r.run_id: {"curve/mean": [Point(100 * i, v * (0.99 + r.seed / 100), 0) for i, v in enumerate(rising[r.arm], 1)]}
        for r in runs if r.arm in rising
    }  # fmt: skip
    notes = dict(report(experiment, runs, histories=histories).notes)
    pair = "Cross-attention, frozen − Fully autoregressive (Perceiver), LoRA"
    told = f"more training changes an order. {pair}: -10.0 halfway, +5.0 at the end"
    assert notes["Budget"] == f"{told} (scores along the way, tune split)."
    assert "Scores along the way" not in notes


@pytest.mark.parametrize(("end", "told"), [(40.0, True), (31.0, False)])
def test_an_order_that_more_training_may_change_is_told(
    experiment: Experiment, runs: list[RunRecord], end: float, told: bool
) -> None:
    """Of an arm that catches up, and of one that falls back further."""
    rising = {"ca": [10.0, 20.0, 30.0, end], "ar_lora": [10.0, 40.0, 58.0, 60.0]}
    histories = {
        r.run_id: {"curve/mean": [Point(100 * i, v + seed * i / 10, 0) for i, v in enumerate(rising[r.arm], 1)]}
        for r in runs if r.arm in rising for seed in [r.seed - 1 if r.arm == "ca" else 0]
    }  # fmt: skip
    notes = dict(report(experiment, runs, histories=histories).notes)
    pair = "Cross-attention, frozen − Fully autoregressive (Perceiver), LoRA"
    where = f"where a difference still shrinks. {pair}: -28.0 after three quarters, -20.0 at the end"
    assert (where in notes.get("Budget", "")) is told


def test_what_is_no_number_is_neither_a_score_along_the_way_nor_a_size(
    experiment: Experiment, runs: list[RunRecord], histories: dict[str, History]
) -> None:
    told = report(experiment, runs, histories=histories)
    beside = {run: h | {"curve/mean": [Point(1, math.nan, 0), *h["curve/mean"]]} for run, h in histories.items()}
    broken = [replace(r, metrics=r.metrics | {schema.PARAMS_TOTAL: math.nan}) for r in runs if r.seed == 2]
    found = report(experiment, [r for r in runs if r.seed != 2] + broken, histories=beside)
    assert found.health == told.health and found.notes == told.notes and found.rows == told.rows


@pytest.mark.parametrize("status", [schema.RUNNING, schema.DIVERGED])
def test_sizes_are_not_those_of_a_run_that_came_to_its_first_stage_only(
    experiment: Experiment, runs: list[RunRecord], status: str
) -> None:
    small = {schema.PARAMS_TOTAL: 1.0, schema.PARAMS_TRAINABLE: 1.0}
    state: dict[str, Any] = {"status": status, "scores": [], "items": {}, "metrics": small}
    begun = [replace(r, **state) if (r.arm, r.seed) == ("ar_lora", 2) else r for r in runs]
    row = row_of(report(experiment, begun), "ar_lora")
    assert row.seeds[2] == status
    assert (row.total_parameters, row.trainable_parameters) == (3_050_000, 98_400)


@pytest.mark.parametrize("status", [schema.RUNNING, schema.DIVERGED, schema.FAILED, schema.STOPPED])
def test_curves_that_were_cut_short_are_no_ends_of_a_training_and_say_nothing_of_a_benchmark(
    experiment: Experiment, runs: list[RunRecord], status: str
) -> None:
    """Of an arm that stands above the other where it is now, and fell before."""
    curves = {"ca": [10.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0], "ar_lora": [90.0, 35.0, 30.0, 25.0, 60.0]}
    histories = {
        r.run_id: {"curve/mean": [Point(50 * i, v * (0.99 + r.seed / 100), 0) for i, v in enumerate(curves[r.arm], 1)]}
        for r in runs if r.arm in curves
    }  # fmt: skip
    ended = report(experiment, runs, histories=histories)
    assert "Budget" in dict(ended.notes) and not ended.health["mean"].monotone
    cut = [replace(r, status=status, scores=[], items={}) if r.arm == "ar_lora" else r for r in runs]
    found = report(experiment, cut, histories=histories)
    assert "Budget" not in dict(found.notes)
    assert found.health["mean"].rising == 1.0, "of the arm that was trained to its end"


@pytest.mark.parametrize("seeds", [("skipped", "failed", "failed"), ("skipped", "running", "failed")])
def test_the_reason_that_is_told_is_of_a_run_that_ended_as_the_row_says(
    experiment: Experiment, runs: list[RunRecord], seeds: tuple[str, ...]
) -> None:
    def ended(record: RunRecord, status: str) -> RunRecord:
        tags = {**record.tags, schema.MESSAGE: f"why it is {status}"}
        return replace(record, status=status, scores=[], items={}, tags=tags)

    mixed = [ended(r, seeds[r.seed]) if r.arm == "ca" else r for r in runs]
    row = row_of(report(experiment, mixed), "ca")
    assert row.message == f"why it is {row.status}"


def test_a_run_whose_weights_were_trained_without_scores_along_the_way_is_named(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    seen = {schema.SEEN_IMAGES: [Point(1, 4.0, 0)]}
    with_scores = {r.run_id: seen | {"curve/mean": [Point(1, 9.0, 0)]} for r in runs}
    bare = {r.run_id: seen for r in runs if (r.arm, r.seed) == ("ca", 1)}
    told = dict(report(experiment, runs, histories=with_scores | bare).notes)["Scores along the way"]
    assert told.startswith("none of Cross-attention, frozen (seed 1), whose weights were trained without")
    for histories in (with_scores, {r.run_id: seen for r in runs}):
        assert "Scores along the way" not in dict(report(experiment, runs, histories=histories).notes)


def test_arms_that_cannot_be_told_apart_are_a_group(experiment: Experiment, runs: list[RunRecord]) -> None:
    found = {row.arm: row.rank_range for row in report(experiment, runs).rows}
    assert (found["ar_lora"], found["ar_linear"]) == ((1, 1), (5, 5))
    one_seed = report(experiment, [r for r in runs if r.seed == 0])
    assert {row.rank_range for row in one_seed.rows} == {(1, 5)}


def test_intervals_hold_for_other_items_where_they_are_known(experiment: Experiment, runs: list[RunRecord]) -> None:
    def with_items(record: RunRecord) -> RunRecord:
        rng = random.Random(record.run_id)
        scores, items = [], {}
        for s in record.scores:
            right = round(s["score"] * 4)
            values = [1.0] * right + [0.0] * (400 - right)
            rng.shuffle(values)
            scores.append(s if s["blind"] else s | {"score": right / 4})
            items |= {} if s["blind"] else {s["column"]: values}
        return replace(record, scores=scores, items=items)

    plain, full = report(experiment, runs), report(experiment, [with_items(r) for r in runs])
    row = row_of(full, "ca")
    assert (row.score().items, row.score("vqa").items) == (1600, 400)
    assert full.claims[0].difference.items == 1600 and plain.claims[0].difference.items == 0
    assert "for other items of the same kinds" in dict(full.notes)["Intervals"]
    some = report(experiment, [with_items(r) if r.seed else r for r in runs])
    assert row_of(some, "ca").score().items == 0


def test_scores_by_item_that_are_not_the_score_are_not_used(experiment: Experiment, runs: list[RunRecord]) -> None:
    foreign = [replace(r, items={s["column"]: [0.5] * 400 for s in r.scores}) for r in runs]
    assert {row.score().items for row in report(experiment, foreign).rows} == {0}


def test_published_rows_stand_in_the_papers_order(experiment: Experiment, runs: list[RunRecord]) -> None:
    arms = {name: arm for name, arm in experiment.arms.items() if name in ("ca", "ar_lora")}
    shown = experiment.model_copy(update={"arms": arms, "table": TableConfig(published=True)})
    found = report(shown, runs)
    assert [row.arm for row in found.shown] == ["", "", "ca", "", "ar_lora"]
    assert [row.status for row in found.shown] == ["published", "published", "finished", "published", "finished"]
    for name in ("markdown", "latex", "csv", "html"):
        text = render(found, name)
        assert "7.6B" in text and ("published" in text) == (name == "csv")
    assert [row.rank for row in found.rows] == [2, 1], "ranks are among what was run"


def test_our_columns_stand_beside_the_papers(experiment: Experiment, run: Run, score_of: Score) -> None:
    arms = {
        "clip": Arm(label="CLIP", cell={"vision_encoder": "CLIP-ViT-H"}),
        "siglip": Arm(label="SigLIP", cell={"vision_encoder": "SigLIP-SO400M"}),
    }
    claim = Claim(text="reads better", better="siglip", worse="clip", metric="text")
    detail = experiment.model_copy(
        update={"paper": PaperRef(key="idefics2_t10"), "arms": arms,
                "table": TableConfig(claims=[claim], paired={"text": "textvqa"})}
    )  # fmt: skip
    records = [run(arm, seed) for arm in arms for seed in range(2)]
    found = report(detail, records)
    assert found.claims[0].comparisons[0].paper_gain == pytest.approx(33.8 - 28.2)
    assert row_of(found, "clip").paper_scores == {"text": 28.2}
    assert "TextVQA" in render(found, "markdown")


def test_a_cell_of_the_paper_without_a_number(experiment: Experiment, run: Run) -> None:
    arms = {
        "haiku": Arm(label="Haiku", cell={"model": "Claude 3 Haiku"}),
        "sonnet": Arm(label="Sonnet", cell={"model": "Claude 3 Sonnet"}),
    }
    claim = Claim(text="more", better="sonnet", worse="haiku", metric="text")
    table = TableConfig(score="textvqa", claims=[claim], paired={"text": "textvqa"})
    update = {"paper": PaperRef(key="idefics2_t15"), "arms": arms, "table": table}
    found = report(experiment.model_copy(update=update), [run(arm, seed) for arm in arms for seed in range(2)])
    assert {row.paper_score for row in found.rows} == {None} and found.order is None
    assert found.claims[0].comparisons[0].paper_gain is None
    assert "None" not in render(found, "markdown").replace("Nonetheless", "")


def test_several_code_versions_and_machines_are_told(experiment: Experiment, run: Run) -> None:
    tags = [{"vlm.git": "a" * 40, "vlm.machine": "AMD", "vlm.threads": "1"},
            {"vlm.git": "b" * 40 + "+changes", "vlm.machine": "Intel", "vlm.threads": "2"}]  # fmt: skip
    found = report(experiment, [run("ca", seed, tags=tags[seed]) for seed in range(2)])
    note = dict(found.notes)["Computed"]
    assert "aaaaaaaaaaaa (1 run), bbbbbbbbbbbb with changes (1 run)" in note and "AMD (1 run), Intel (1 run)" in note
    assert "threads: 1 (1 run), 2 (1 run)" in note
    alike = report(experiment, [run("ca", seed, tags=tags[0]) for seed in range(2)])
    assert "Computed" not in dict(alike.notes)
