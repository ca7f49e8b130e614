"""One spec from start to finish: recorded, never run twice, and every way it can end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training.squares import STAGE, make_spec

from tests.runs.executed import assert_same_result, last_record, stages, weights
from vlm_ablate.errors import StorageError
from vlm_ablate.events import CurvePoint, EvaluationProgress, RunFinished, RunStarted, StageFinished, StageStarted
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.publishing import publish_missing
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.read import read_history, read_records
from vlm_ablate.training.optim import schedule


def test_a_run_is_recorded(straight):
    home, spec, outcome, events = straight
    record = read_records(home.tracking_uri, spec.experiment)[0]
    assert (record.status, record.arm, record.seed, record.id) == ("finished", spec.arm, 0, spec.id)
    assert {(s["column"], s["blind"]) for s in record.scores} == {("colour", False), ("colour", True)}
    assert record.metrics["score/mean"] == outcome.mean == outcome.scores["colour"]
    # Else equal predictions would prove little.
    assert outcome.scores["colour"] > 0
    assert record.tags["vlm.data_fingerprint"]
    assert json.loads(record.tags["vlm.licences"])[0]["licence"] == "CC0-1.0"
    assert record.params["stages.tune.lora.r"] == "2"
    assert record.metrics["seen/images"] == 64
    assert record.metrics["model/params_trainable"] < record.metrics["model/params_total"]
    assert record.metrics["seen/flops"] > 0
    assert outcome.trained == ("align", "tune")
    kinds = [type(e) for e in events]
    assert kinds.count(StageStarted) == kinds.count(StageFinished) == 2
    assert (kinds[0], kinds[-1]) == (RunStarted, RunFinished)
    assert {e.column for e in events if isinstance(e, EvaluationProgress)} == {"colour"}
    assert [e.step for e in events if isinstance(e, CurvePoint)] == [6, 12, 14, 16]


def test_history_against_steps_and_what_was_seen(straight):
    home, spec, *_ = straight
    run = last_record(home, spec).run_id
    history = read_history(home.tracking_uri, run, ["train/loss", "curve/mean", "seen/images"])
    assert [p.step for p in history["train/loss"]] == list(range(2, 17, 2))
    assert [p.step for p in history["curve/mean"]] == [6, 12, 14, 16]
    assert {p.step: p.value for p in history["seen/images"]} == {step: 4 * step for step in range(2, 17, 2)}
    waiting = read_history(home.tracking_uri, run, [schema.WAITING])[schema.WAITING]
    assert [p.step for p in waiting] == list(range(2, 17, 2)) and all(0 < p.value < 1 for p in waiting)


def test_the_learning_rate_follows_the_schedule_of_the_stage(parts, home):
    stage = STAGE | {"steps": 8, "warmup_steps": 2, "schedule": "cosine", "learning_rate": 0.01}
    spec = make_spec(parts, stages={"only": stage}, blind=False)
    assert execute(spec, home=home).status == "finished"
    rates = read_history(home.tracking_uri, last_record(home, spec).run_id, [schema.TRAIN_LR])[schema.TRAIN_LR]
    factor = schedule(spec.config.stages["only"])
    assert len({p.value for p in rates}) > 2
    assert [p.value for p in rates] == pytest.approx([0.01 * factor(p.step) for p in rates])  # of the next step


def test_artifacts(straight):
    home, spec, *_ = straight
    record = read_records(home.tracking_uri, spec.experiment)[0]
    root = Path(record.artifact_uri.removeprefix("file://"))
    names = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert names >= {"config.yaml", "plan.json", "examples.png", "predictions/predictions.csv"}
    table = (root / "predictions" / "predictions.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * 8
    assert (root / "examples.png").read_bytes().startswith(b"\x89PNG")
    names = set(weights(home, spec))
    assert any("lora_A" in name for name in names)
    assert not any(name.startswith("vision.") for name in names)  # frozen all along


def test_a_finished_run_is_not_run_again(straight, parts):
    home, spec, outcome, _ = straight
    events = []
    again = execute(spec, home=home, reporter=events.append)
    assert again.reused
    assert (again.scores, again.blind) == (outcome.scores, outcome.blind)
    assert [type(e) for e in events] == [RunFinished]
    assert len(read_records(home.tracking_uri, spec.experiment)) == 1


def test_another_table_that_needs_the_same_run_gets_its_results(straight, parts):
    home, spec, outcome, _ = straight
    twin = make_spec(parts, curve={"points": 2, "limit": 4}, experiment="tests/other", arm="the_same")
    assert twin.id != spec.id and twin.stage_keys[-1].key == spec.stage_keys[-1].key
    again = execute(twin, home=home)
    assert again.scores == outcome.scores and again.reused
    assert publish_missing(home, home.tracking_uri, print) == 1
    (record,) = read_records(home.tracking_uri, "tests/other")
    assert record.arm == "the_same" and record.metrics["score/mean"] == outcome.mean


def test_two_runs_of_one_seed_are_equal_to_the_bit(straight, home):
    _, spec, *_ = straight
    execute(spec, home=home)
    assert_same_result((home, spec), straight[:2])


def test_arms_of_one_seed_see_the_same_data(parts, home, monkeypatch):
    from vlm_ablate.training.module import TrainingModule

    shown: list[list[str]] = []
    step = TrainingModule.training_step
    monkeypatch.setattr(
        TrainingModule, "training_step", lambda self, b, i: (shown[-1].extend(b.sample_ids), step(self, b, i))[1]
    )
    short = {"only": STAGE | {"steps": 2}}
    for arm in (
        make_spec(parts, stages=short, blind=False),
        make_spec(parts, stages=short, blind=False, connector={"name": "mlp"}, architecture="cross_attention"),
        make_spec(parts, stages={"only": short["only"] | {"language": "lora"}}, blind=False),
        make_spec(parts, stages=short, blind=False, seed=1),
    ):
        shown.append([])
        outcome = execute(arm, home=home)
        assert outcome.status == "finished", outcome.message
    assert len(shown[0]) == 8
    assert shown[0] == shown[1] == shown[2] != shown[3]


def test_diverged_is_recorded_as_a_result(parts, home):
    wild = {"only": STAGE | {"steps": 30, "learning_rate": 1e6, "gradient_clip": None, "divergence_loss_ratio": 1.5}}
    spec = make_spec(parts, stages=wild)
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "diverged"
    assert "step" in outcome.message
    assert not outcome.scores
    assert execute(spec, home=home).reused


def test_a_missing_asset_skips_the_run(parts, home):
    spec = make_spec(parts, source={"missing": True})
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "skipped"
    assert "install the squares" in outcome.message
    # Installed later, the run is made.
    assert not execute(spec, home=home).reused


def test_a_failure_is_recorded_with_its_traceback(parts, home):
    spec = make_spec(parts, stages={"only": STAGE | {"language": "lora", "lora": {"language_targets": ["nowhere"]}}})
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "failed"
    assert "match no module" in outcome.message


def test_an_unexpected_failure_keeps_its_traceback(parts, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.runs.train.train_stage", lambda job: 1 / 0)
    spec = make_spec(parts)
    outcome = execute(spec, home=home)
    assert outcome.status == "failed"
    assert outcome.message == "ZeroDivisionError: division by zero"
    root = Path(last_record(home, spec).artifact_uri.removeprefix("file://"))
    assert "1 / 0" in (root / "traceback.txt").read_text()


def test_a_folder_that_cannot_be_written_is_one_clear_error(parts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        execute(make_spec(parts), home=Home(tmp_path / "file" / "home"))


def test_too_little_space_is_one_clear_error(tmp_path):
    with pytest.raises(StorageError, match="are needed"):
        Home(tmp_path).prepare(minimum_free=2**60)


def test_a_run_of_packed_rows_without_padding_says_so(parts, home):
    """How attention is computed is recorded and in no key; what is packed is in the key."""
    packed = {"align": STAGE | {"steps": 2, "data": {"packing": "rows", "sequence_length": 24}}}
    specs = [
        make_spec(parts, stages=packed, execution={"attention": attention}) for attention in ("documents", "padded")
    ]
    assert specs[0].stage_keys[0].key == specs[1].stage_keys[0].key
    loose = make_spec(parts, stages={"align": STAGE | {"steps": 2, "data": {"sequence_length": 24}}})
    assert loose.stage_keys[0].key != specs[0].stage_keys[0].key
    assert execute(specs[0], home=home).status == "finished"
    ended = stages(home, specs[0])[0].outcome()
    assert ended["execution"]["attention"] == "documents"
    assert "attention_apart" not in ended["execution"]
    assert ended["seen"]["sequences"] > 2 * STAGE["batch_size"], "rows hold several samples each"


def test_a_kernel_that_did_not_compute_all_attention_is_not_recorded_alone(parts, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.runs.stage_model.choose", lambda *args, **kwargs: "varlen")
    spec = make_spec(parts, stages={"align": STAGE | {"steps": 2}})
    assert execute(spec, home=home).status == "finished"
    recorded = stages(home, spec)[0].outcome()["execution"]
    assert (recorded["attention"], recorded["attention_apart"]) == ("varlen", "a layer computes in float32")
