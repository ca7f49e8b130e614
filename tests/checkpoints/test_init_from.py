"""Runs that start from a checkpoint: trained from there, recorded, and refused by the plan when it does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training.squares import STAGE, make_spec
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.checkpoints.test_parity import CASES, batch_for, reference_inputs, save_reference
from tests.command import call
from tests.models.support import a_vlm
from vlm_ablate.checkpoints.families.known import parts_of
from vlm_ablate.checkpoints.own import save_checkpoint
from vlm_ablate.checkpoints.released import fingerprint
from vlm_ablate.checkpoints.start_from import check_starts
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.experiment import RunConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.home import Home
from vlm_ablate.models.vlm import build_vlm
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.export import export_run
from vlm_ablate.runs.find import find_run, load_run
from vlm_ablate.runs.names import RunNotUsable
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.read import read_records

CREEP = {"train": STAGE | {"steps": 2, "learning_rate": 1e-9}}
"""Steps so small that the model stays what it started from."""


def spec_from(model: dict[str, Any], parts: Path, **fields: Any) -> RunSpec:
    """A run on squares of 32 pixels of that model."""
    spec = make_spec(parts, stages=CREEP, blind=False, **fields)
    body = spec.config.model_dump(mode="json")
    body["model"] = model
    for prepared in (*(stage["data"] for stage in body["stages"].values()), body["evaluation"]):
        prepared["image"]["size"] = 32
    return replace(spec, config=RunConfig.model_validate(body))


@pytest.mark.parametrize("family", ["idefics2", "idefics3", "smolvlm"])
def test_a_run_starts_from_a_released_checkpoint(family: str, parts: Path, tmp_path: Path, home: Home) -> None:
    released = tmp_path / "released"
    save_reference(CASES[family], released)
    model = parts_of(AutoConfig.from_pretrained(released), str(released))
    spec = spec_from(model, parts)
    assert spec.id != spec_from(model | {"init_from": None}, parts).id
    outcome = execute(spec, home=home)
    assert outcome.status == "finished", outcome.message
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert json.loads(record.tags["vlm.init_from"]) == {"id": str(released), **fingerprint(released)}
    assert record.params["model.init_from"] == str(released)
    vlm = load_run(find_run(spec.id, home))
    reference = AutoModelForImageTextToText.from_pretrained(released, dtype=torch.float32).eval()
    batch = batch_for(vlm, left=False, native=False)
    real = batch.attention_mask
    with torch.no_grad():
        expected = reference(**reference_inputs(batch, torch.float32)).logits
        torch.testing.assert_close(vlm.logits(batch)[real], expected[real], rtol=1e-4, atol=1e-4)
    # The run keeps its difference from there: other weights at that place would make another model of it.
    save_reference(CASES["idefics3-factor-1" if family == "idefics3" else "idefics2-tied"], released)
    with pytest.raises((ModelError, RunNotUsable)):
        load_run(find_run(spec.id, home))


@pytest.mark.parametrize(
    ("architecture", "connector"),
    [
        ("autoregressive", dict(name="perceiver", latents=3, depth=1, heads=2, head_dim=8, kv_heads=1)),
        ("cross_attention", "linear"),
    ],
    ids=["transformers' folder", "our folder"],
)
def test_a_run_starts_from_an_exported_run(
    architecture: str, connector: Any, parts: Path, tmp_path: Path, home: Home
) -> None:
    model = {
        "vision": {"name": "siglip-native", "id": str(parts / "vision"), "image_size": 32},
        "language": {"name": "hf", "id": str(parts / "lm")},
        "connector": connector,
        "architecture": architecture,
    }
    lora = {"train": STAGE | {"steps": 2, "language": "lora", "lora": {"r": 2}}}
    first = spec_from(model, parts)
    body = first.config.model_dump(mode="json")
    body["stages"] = {name: stage | lora[name] for name, stage in body["stages"].items()}
    first = replace(first, config=RunConfig.model_validate(body))
    assert execute(first, home=home).status == "finished"
    made = export_run(find_run(first.id, home), tmp_path / "out")
    assert (made.cls is None) == (architecture == "cross_attention")
    second = spec_from(model | {"init_from": str(tmp_path / "out")}, parts, arm="second")
    outcome = execute(second, home=home)
    assert outcome.status == "finished", outcome.message
    tag = find_run("second", home).record.tags["vlm.init_from"]
    assert json.loads(tag)["type"] == ("vlm_ablate" if made.cls is None else "idefics2")
    before, after = (load_run(find_run(s.id, home)) for s in (first, second))
    batch = batch_for(before, left=False, native=False)
    torch.testing.assert_close(after.logits(batch), before.logits(batch), rtol=1e-4, atol=1e-4)


def test_a_plan_looks_where_our_own_folder_has_the_placeholder(parts: Path, tmp_path: Path) -> None:
    vlm = a_vlm(parts / "vision", parts / "lm", connector="linear", architecture="cross_attention")
    save_checkpoint(vlm, tmp_path, ImageConfig(size=32))
    other = {"language": {"name": "llama-nano", "weights": "random"}, "init_from": str(tmp_path)}
    config = ModelConfig.model_validate(vlm.config.model_dump(mode="json") | other)
    with pytest.raises(ModelError, match="<image> is token"):
        check_starts(build_vlm(config, vlm.views, load_weights=False), config)


# --- through the command line ----------------------------------------------------------------------------------------


def test_plan_and_run_refuse_what_does_not_fit(parts: Path, tmp_path: Path, home: Home) -> None:
    released, broken = tmp_path / "released", tmp_path / "broken"
    save_reference(CASES["idefics2"], released)
    shutil.copytree(released, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    model = parts_of(AutoConfig.from_pretrained(released), str(released))
    arms = {
        "good": {},
        "latents": {"model.connector.latents": 4},
        "shuffled": {"model.connector": "pixel_shuffle"},
        "cut_short": {"model.init_from": str(broken)},
        "a_language_model": {"model.init_from": str(parts / "lm")},
        "other_tokens": {"model.language.id": str(parts / "lm")},
        "away": {"model.init_from": "someone/something"},
    }
    experiment = {
        "name": "tests/init_from",
        "title": "Starting points",
        "plugins": ["training.squares"],
        "seeds": [0],
        "factor": ["model"],
        "model": model,
        "data": {"mixture": {"one": {"source": "squares"}}, "image": {"size": 32}, "sequence_length": 64},
        "stages": CREEP,
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 0, "blind": False},
        "arms": {name: {"set": changes} for name, changes in arms.items()},
    }
    yaml_file = tmp_path / "init.yaml"
    yaml_file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    messages = {
        "latents": "latents: the checkpoint has (3, 32), this assembly (4, 32)",
        "shuffled": "the checkpoint does not fit this assembly: missing ['connector.modality_projection.proj.weight']",
        "cut_short": "cannot be read as safetensors",
        "a_language_model": "is a 'llama' checkpoint; known: idefics2",
        "other_tokens": "init_from: <image> is token",
        "away": "'someone/something' is not on this machine",
    }
    planned = call("plan", yaml_file, "--scale", "paper")
    assert planned.exit_code == 1 and "Traceback" not in planned.output
    told = " ".join(planned.stderr.split())
    assert "good:" not in told
    for arm, message in messages.items():
        assert f"{arm}: " in told and message in told, (arm, told)
    some = ("--arms", "good,latents,away")
    result = call("run", yaml_file, "--scale", "paper", "--home", home.root, "--jobs", "1", *some)
    records = {record.arm: record for record in read_records(home.tracking_uri, "tests/init_from")}
    statuses = {arm: record.status for arm, record in records.items()}
    assert statuses == {"good": "finished", "latents": "failed", "away": "skipped"}, result.output
    assert messages["latents"] in records["latents"].message and messages["away"] in records["away"].message
