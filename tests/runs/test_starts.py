"""Runs that start from other runs by name: the whole of one, its connector, its adapters; and what does not fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from training.squares import STAGE, make_spec, save_parts
from transformers import LlamaConfig, LlamaForCausalLM

from vlm_ablate.accounting import plan_model
from vlm_ablate.checkpoints.own import merged_tensors
from vlm_ablate.checkpoints.trained import read_trained_stage
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import ModelError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.models.vlm import VLM
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.export import export_run
from vlm_ablate.runs.find import find_run, load_run
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.stage_model import StageModel
from vlm_ablate.runs.starts import placed_run
from vlm_ablate.sweeps.cost import Costs

LEARNT: dict[str, Any] = {"train": STAGE | {"steps": 3, "language": "lora", "lora": {"r": 2, "dropout": 0.0}}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, parts: Path) -> Home:
    """With a finished run `first` that trained a connector and LoRA in the language model."""
    home = Home(tmp_path_factory.mktemp("home")).prepare(minimum_free=0)
    assert execute(first(parts), home=home).status == "finished"
    return home


def first(parts: Path) -> RunSpec:
    return make_spec(parts, arm="first", stages=LEARNT, blind=False)


def from_run(parts: Path, start: Any, **fields: Any) -> RunSpec:
    spec = make_spec(parts, arm="second", seed=1, stages=LEARNT, blind=False, **fields)
    body = spec.config.model_dump(mode="json")
    body["model"]["init_from"] = start
    return replace(spec, config=RunConfig.model_validate(body))


def begun(spec: RunSpec, home: Home) -> VLM:
    """The model as its first stage finds it."""
    return StageModel(spec, home).ready(0, None)


def tensors(vlm: VLM, part: str) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in vlm.named_parameters() if n.startswith(f"{part}.") and "lora_" not in n}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    plain = [{name.replace(".base_layer", ""): tensor for name, tensor in side.items()} for side in (one, other)]
    return plain[0].keys() == plain[1].keys() and all(
        torch.allclose(plain[0][name], plain[1][name], rtol=0, atol=tolerance) for name in plain[0]
    )


def test_the_connector_of_a_run_and_nothing_else(parts: Path, home: Home) -> None:
    spec = from_run(parts, {"connector": "run:first seed 0"})
    found = begun(spec, home)
    assert equal(tensors(found, "connector"), tensors(load_run(find_run("first", home)), "connector"))
    alone = begun(from_run(parts, None), home)
    assert equal(tensors(found, "language"), tensors(alone, "language"))
    assert not equal(tensors(found, "connector"), tensors(alone, "connector"))


def test_a_whole_run_and_its_adapters_alone(parts: Path, home: Home) -> None:
    merged = merged_tensors(load_run(find_run("first", home)))
    language = {n: t for n, t in merged.items() if n.startswith("language.model.model.layers.")}
    whole = begun(from_run(parts, "run:first seed 0"), home)
    adapters = begun(from_run(parts, {"adapters": "run:first seed 0"}), home)
    for vlm in (whole, adapters):
        own = {n.replace(".base_layer", ""): p for n, p in vlm.named_parameters() if "lora_" not in n}
        assert all(torch.allclose(own[name], tensor, atol=1e-6) for name, tensor in language.items())
    assert equal(tensors(whole, "connector"), {n: t for n, t in merged.items() if n.startswith("connector.")})
    assert not equal(tensors(adapters, "connector"), tensors(whole, "connector"))


def test_adapters_of_a_damaged_file_are_not_taken(parts: Path, home: Home) -> None:
    source = find_run("first", home).results.stages[-1]
    ended = source.outcome()
    assert ended is not None
    source.end(ended | {"weights_sha256": "0" * 64})
    try:
        with pytest.raises(ModelError, match=r"init_from\.adapters: .* checksum is not that of what was trained"):
            begun(from_run(parts, {"adapters": "run:first seed 0"}), home)
    finally:
        source.end(ended)


def test_a_stage_starts_from_no_folder_outside_its_home(parts: Path, home: Home, tmp_path: Path) -> None:
    there = find_run("first", home).results.stages[-1].root
    body = json.loads((there / "stage.json").read_text())
    del body["sum"]
    for name in ("../../elsewhere", "..", "", str(tmp_path), ["x"]):
        (tmp_path / "stage.json").write_text(json.dumps(body | {"starts": {"run:x seed 0": name}}))
        with pytest.raises(ModelError, match=r"stage\.json cannot be read"):
            read_trained_stage(tmp_path)


def test_what_a_run_started_from_is_recorded_and_decides_its_key(parts: Path, home: Home, tmp_path: Path) -> None:
    spec = from_run(parts, {"connector": "run:first seed 0"})
    assert spec.id != from_run(parts, None).id
    assert execute(spec, home=home).status == "finished"
    record = find_run("second", home).record
    told = json.loads(record.tags["vlm.init_from"])["connector"]
    assert (told["id"], told["type"]) == ("run:first seed 0", "run")
    load_run(find_run("second", home))
    (key,) = spec.stage_keys
    before = key.fingerprints(home)
    source = StageFolder(home.stages / told["stage"])
    ended = source.outcome()
    source.end(ended | {"weights_sha256": "0" * 64})
    after = key.fingerprints(home)
    assert {what for what in before if before[what] != after[what]} == {"init_from.connector"}
    with pytest.raises(ModelError, match="checksum is not that of what was trained"):
        begun(spec, home)
    source.end(ended)
    # A run that started from a run can be started from, and an exported folder gives a part, too.
    third = from_run(parts, "run:second seed 1")
    assert equal(tensors(begun(third, home), "connector"), tensors(load_run(find_run("second", home)), "connector"))
    export_run(find_run("first", home), tmp_path / "out")
    exported = begun(from_run(parts, {"connector": str(tmp_path / "out")}), home)
    assert equal(tensors(exported, "connector"), tensors(load_run(find_run("first", home)), "connector"))


@pytest.mark.parametrize(
    ("start", "fields", "told"),
    [
        ({"connector": "run:frist seed 0"}, {}, "model.init_from.connector: unknown run .*did you mean 'first seed 0'"),
        ({"connector": "run:first seed 0"}, {"connector": {"name": "mlp"}}, "init_from.connector: .* missing"),
        ({"architecture": "run:first seed 0"}, {}, "'autoregressive' of this model has no weights"),
        ({"connector": "{parts}/lm"}, {}, "model.init_from.connector: .*known: idefics2"),
        ({"connector": "no/where/here"}, {}, "model.init_from.connector: the folder .* does not exist"),
        ({"adapters": "{parts}/lm"}, {}, "init_from.adapters: .* has no adapters that can be taken alone"),
        ("run:first seed 9", {}, "model.init_from: unknown run"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_of_its_field_before_weights_are_read(
    start: Any, fields: dict[str, Any], told: str, parts: Path, home: Home
) -> None:
    start = json.loads(json.dumps(start).replace("{parts}", str(parts)))
    with pytest.raises(VlmAblateError) as caught:
        plan_model(placed_run(from_run(parts, start, **fields).config, home))
    assert re.search(told, " ".join(str(caught.value).split())), str(caught.value)


def test_a_sweep_plans_trials_that_start_from_a_run_and_keeps_their_plans_in_its_home(parts: Path, home: Home) -> None:
    spec = from_run(parts, {"connector": "run:first seed 0"})
    before = set(home.cache.glob("plans/*"))
    assert Costs(home).cost(spec.config).parameters == plan_model(placed_run(spec.config, home)).total_parameters
    assert len({*home.cache.glob("plans/*")} - before) == 1


def test_other_widths_are_told(parts: Path, home: Home, tmp_path: Path) -> None:
    save_parts(tmp_path)
    config = LlamaConfig.from_pretrained(tmp_path / "lm")
    config.hidden_size = 48
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    told = r"model.init_from.connector: connector.linear.weight: .*\(32, 16\).*\(48, 16\)"
    with pytest.raises(ModelError, match=told):
        plan_model(placed_run(from_run(tmp_path, {"connector": "run:first seed 0"}).config, home))


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ({"conector": "x"}, "conector"),
        ({}, "names no part"),
        (5, "mapping of parts"),
        ({"connector": 5}, "connector"),
        ({"language": "run:first", "adapters": "run:first"}, "has its adapters folded in already"),
    ],
)  # fmt: skip
def test_what_is_no_start_is_refused(start: Any, told: str, parts: Path) -> None:
    with pytest.raises(ValidationError, match=told):
        from_run(parts, start)


def test_single_parts_are_no_model_to_score(parts: Path) -> None:
    body = from_run(parts, {"connector": "run:first seed 0"}).config.model_dump(mode="json")
    with pytest.raises(ValidationError, match="of single parts it makes no whole"):
        RunConfig.model_validate(body | {"stages": {}})
