"""Runs that share the output of their frozen encoder give what they give by themselves, and say that they shared it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training.squares import STAGE, make_spec

from vlm_ablate.accounting import CPU_FLOPS, GPU_FLOPS, plan_features, plan_model
from vlm_ablate.errors import ConfigError
from vlm_ablate.home import Home
from vlm_ablate.models.feature_store import store_size
from vlm_ablate.models.vision.siglip import NativeSiglip
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.features import Features
from vlm_ablate.runs.results import find_stages

STAGES = {"align": STAGE | {"steps": 8}, "tune": STAGE | {"steps": 4, "language": "lora", "lora": {"r": 2}}}


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many views the encoder saw, a call."""
    seen: list[int] = []
    forward = NativeSiglip.forward

    def counting(self, pixels, mask):
        if not pixels.is_meta:
            seen.append(len(pixels))
        return forward(self, pixels, mask)

    monkeypatch.setattr(NativeSiglip, "forward", counting)
    return seen


def a_home(folder: Path, store: Path) -> Home:
    home = Home(folder).prepare(minimum_free=0)
    shutil.copyfile(store, home.database)
    return home


def result(home: Home, spec):
    """Weights and answers."""
    last = find_stages(spec, home)[-1]
    files = [file for file in sorted(last.root.rglob("*.jsonl")) if file.name != "log.jsonl"]
    return load_file(last.weights), {file.relative_to(last.root): file.read_bytes() for file in files}


def told(home: Home, spec) -> list[dict]:
    return [stage.outcome()["execution"]["stored_features"] for stage in find_stages(spec, home)]


def test_arms_that_share_features_give_what_they_give_alone(parts, tmp_path, store_template, encoded):
    def spec(features: str, **changes):
        options = {"stages": STAGES, "curve": {"points": 1, "limit": 4}, "execution": {"features": features}}
        return make_spec(parts, **options | changes)

    alone, shared = (a_home(tmp_path / name, store_template) for name in ("alone", "shared"))
    arms = [{"connector": "linear"}, {"connector": "mlp", "arm": "other"}]
    views = []
    for home, features in ((alone, "off"), (shared, "on")):
        for arm in arms:
            encoded.clear()
            assert execute(spec(features, **arm), home=home).status == "finished"
            views.append(sum(encoded))
    without, _, first, second = views
    assert second == 0 < first < without
    for arm in arms:
        (weights, answers), (others, said) = result(alone, spec("off", **arm)), result(shared, spec("on", **arm))
        assert said == answers
        for name in weights:
            torch.testing.assert_close(weights[name], others[name], rtol=1e-4, atol=1e-5)
        assert {note["on"] for note in told(shared, spec("on", **arm))} == {True}
        notes = told(alone, spec("off", **arm))
        assert [note["on"] for note in notes] == [False, False]
        assert all(note["why"].startswith("asked for; ") for note in notes)  # then the gain, by how fast the disk was
    assert store_size(shared.cache / "features").encoders == 1
    assert not (alone.cache / "features").exists()


def test_features_are_in_no_key(parts):
    assert make_spec(parts).id == make_spec(parts, execution={"features": "on", "features_gib": 1.0}).id


def test_a_stage_that_trains_the_encoder_refuses_them(parts):
    trained = STAGES | {"tune": STAGE | {"vision": "lora", "lora": {"r": 2}}}
    with pytest.raises((ConfigError, ValueError), match="trains the vision encoder"):
        make_spec(parts, stages=trained, execution={"features": "on"})
    spec = make_spec(parts, stages=trained, execution={"features": "on", "stages": {"tune": {"features": "off"}}})
    plan = plan_model(spec.config)
    decided = {
        name: plan_features(stage, spec.config.execution.of_stage(name), plan.stages[name], flops=1e9)
        for name, stage in spec.config.stages.items()
    }
    assert (decided["align"].on, decided["tune"].on) == (True, False)
    assert decided["tune"].reason == "the encoder is trained"


def test_auto_keeps_what_pays_and_fits(parts):
    config = make_spec(parts, stages={"align": STAGE}).config
    plan, stage, execution = plan_model(config).stages["align"], config.stages["align"], config.execution
    assert not plan_features(stage, execution, plan, flops=1e8).on  # a small encoder before a large language model
    others = plan.flops - plan.training_flops["vision"]
    plan = replace(plan, training_flops=plan.training_flops | {"vision": others})
    slow, fast = (plan_features(stage, execution, plan, flops=flops) for flops in (1e8, 1e15))
    assert slow.on and slow.gain == pytest.approx(2, rel=0.01)
    assert not fast.on and "gains too little" in fast.reason
    tight = execution.model_copy(update={"features_gib": 1e-9})
    assert "more than features_gib" in plan_features(stage, tight, plan, flops=1e8).reason
    assert plan_features(stage, execution, plan, flops=1e8, pictures=2).bytes == 2 * plan.feature_bytes


@pytest.mark.parametrize(("files", "on"), [({"vision": ""}, False), ({"vision": "", "vision code": "c0de"}, False),
                                           ({"vision code": "c0de"}, True)])  # fmt: skip
def test_an_encoder_of_which_nothing_says_what_it_computes_shares_nothing(parts, home, monkeypatch, files, on):
    class Brought(nn.Module):
        config, sees_padding = SimpleNamespace(model_dump=lambda mode: {}), False

    monkeypatch.setattr("vlm_ablate.runs.features.fingerprints_of", lambda parts: files)
    monkeypatch.setattr("vlm_ablate.runs.features.StoredFeatures", lambda *given, **options: None)
    kept = Features(make_spec(parts, stages=STAGES, execution={"features": "on"}), home)
    assert kept.attach(SimpleNamespace(vision=Brought()), "align").on is on


@pytest.mark.parametrize(("asked", "before", "on"), [("off", True, False), ("on", False, True), ("auto", True, True),
                                                     ("auto", False, False)])  # fmt: skip
def test_what_a_record_says_of_features_holds_where_nothing_else_is_asked_for(parts, home, asked, before, on):
    features = Features(make_spec(parts, stages=STAGES, execution={"features": asked}), home)
    features.recall("align", {"execution": {"stored_features": {"on": before, "why": "it paid"}}})
    assert features.decision("align").on is on


@pytest.mark.parametrize(("device", "name", "flops"), [("cpu", "", CPU_FLOPS), ("cuda", "RTX 4090", 0.4 * 165e12),
                                                       ("cuda", "NVIDIA A100-SXM4-80GB", 0.4 * 312e12),
                                                       ("cuda", "another", GPU_FLOPS)])  # fmt: skip
def test_a_run_decides_by_the_gpu_that_it_has(parts, home, monkeypatch, device, name, flops):
    seen: list[float] = []
    monkeypatch.setattr("vlm_ablate.runs.features.training_device", lambda: torch.device(device))
    monkeypatch.setattr("vlm_ablate.runs.features.device_name", lambda: name)
    monkeypatch.setattr("vlm_ablate.runs.features.plan_features", lambda *given, flops: seen.append(flops))
    features = Features(make_spec(parts, stages=STAGES), home)
    features.plan(SimpleNamespace(stages={"align": None}))
    features._planned["align"]()
    assert seen == [pytest.approx(flops)]
