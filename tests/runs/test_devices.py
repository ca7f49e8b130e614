"""`run --devices 2`: a whole run over two ranks, its weights and export those of one process; what cannot be had."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vlm_ablate
from tests.runs.ranked import compare_exports, compare_weights, write_experiment
from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch import local
from vlm_ablate.launch.base import Placement, placed
from vlm_ablate.launch.configs import LocalConfig
from vlm_ablate.launch.local import LocalLauncher
from vlm_ablate.lease import holder
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.group import CODE, disagreement, identity
from vlm_ablate.runs.results import find_stages
from vlm_ablate.runs.spec import RunSpec, specs_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("devices"))


@pytest.fixture
def spec(file: Path) -> RunSpec:
    return specs_of(load_experiment(file, scale="paper"))[0]


@pytest.fixture(scope="module")
def alone(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """What one process makes of it."""
    home = Home(tmp_path_factory.mktemp("alone")).prepare(minimum_free=0)
    assert execute(specs_of(load_experiment(file, scale="paper"))[0], home=home).status == "finished"
    return home


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_leave_the_weights_of_one(
    file: Path, spec: RunSpec, home: Home, alone: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 2)
    asked = ["run", str(file), "--scale", "paper", "--home", str(home.root), "--devices", "2"]
    asked += ["--set", f"execution.strategy={strategy}", "--set", "execution.features=on"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    compare_weights(spec, home, alone)
    compare_exports(spec, home, alone, tmp_path)
    for mine, theirs in zip(find_stages(spec, home), find_stages(spec, alone), strict=True):
        outcome = mine.outcome()
        assert outcome is not None
        assert (outcome["execution"]["devices"], outcome["execution"]["strategy"]) == (2, strategy)
        assert outcome["execution"]["stored_features"] == {"on": False, "why": "several ranks"}
        assert [line["step"] for line in map(json.loads, mine.log.read_text().splitlines())] == [
            line["step"] for line in map(json.loads, theirs.log.read_text().splitlines())
        ]
    assert not (home.cache / "features").exists(), "neither while it trains nor while it answers"


def test_ranks_do_not_change_what_a_run_is_called(spec: RunSpec) -> None:
    two, placement = placed(spec, Placement(devices=2))
    assert (two.id, two.stage_keys) == (spec.id, spec.stage_keys) and placement == Placement(2, 1)
    assert two.config.execution.ranks == 2
    # What the file says holds where the command line says nothing.
    assert placed(two, Placement())[1] == Placement(2, 1) and placed(two, Placement(devices=1))[1] == Placement(1, 1)
    assert placed(spec, Placement())[0] is spec


def with_execution(spec: RunSpec, **values: object) -> RunSpec:
    return RunSpec.from_dict(spec.to_dict() | {"config": _over(spec, {"execution": values})})


def _over(spec: RunSpec, values: dict[str, dict[str, object]]) -> dict[str, object]:
    config = spec.config.model_dump(mode="json")
    return config | {section: config[section] | fields for section, fields in values.items()}


def test_what_ranks_cannot_do_is_told_before_anything(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VlmAblateError, match="batch_size 4 of stage 'align' cannot be dealt to 3 ranks; 2 would do"):
        placed(spec, Placement(devices=3))
    with pytest.raises(ValueError, match="cannot be dealt to 2 ranks in micro-batches of 4; 1 would do"):
        with_execution(spec, devices=2, micro_batch_size=4)
    shared = with_execution(spec, strategy="fsdp2")
    muon = {n: s | {"optimizer": "muon"} for n, s in shared.config.model_dump(mode="json")["stages"].items()}
    for values, told in (
        ({"stages": muon}, "muon in stage 'align' needs whole ones"),
        ({"evaluation": {"curve": {"points": 2}}}, "evaluation.curve asks"),
    ):
        asked = RunSpec.from_dict(shared.to_dict() | {"config": _over(shared, values)})
        with pytest.raises(VlmAblateError, match=told):
            placed(asked, Placement(devices=2))
    monkeypatch.setattr(local, "cores", lambda: 2)
    monkeypatch.setattr(local, "gpus", list)
    launcher = LocalLauncher(LocalConfig())
    launcher._have = 2
    with pytest.raises(VlmAblateError, match="4 devices a run: this machine has 2 cores and no GPU"):
        launcher.submit(spec, Placement(devices=4))


def test_ranks_that_are_not_the_same_are_named(spec: RunSpec) -> None:
    mine = identity(spec)
    assert disagreement(mine, {1: dict(mine), 2: dict(mine)}) is None
    other = mine | {CODE: "0" * 16}
    assert "rank 2 differs from rank 0 in its code of vlm_ablate" in str(disagreement(mine, {1: dict(mine), 2: other}))
    assert "install the same revision" in str(disagreement(mine, {1: other}))
    changed = identity(with_execution(spec, max_skipped=0.5))
    assert "its configuration" in str(disagreement(mine, {1: changed}))
    assert "in its code" in str(disagreement(mine, {1: changed | {CODE: "0" * 16}})), "which may be why"
    older = {name: value for name, value in mine.items() if name != "version of peft"} | {"version of torch": "2.0.0"}
    told = str(disagreement(mine, {1: older}))
    assert f"in its version of peft: 'none', not '{version('peft')}'" in told and "the same versions" in told


@pytest.mark.expensive
def test_a_rank_with_other_code_is_refused_before_a_model_is_built(
    spec: RunSpec, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank is started from a copy of this package in which a comment was added."""
    copy = shutil.copytree(Path(vlm_ablate.__file__).parent, tmp_path / "copy" / "vlm_ablate")
    with (copy / "limits.py").open("a") as file:
        file.write("# changed\n")
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\ncd {copy.parent} && exec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    two, _ = placed(spec, Placement(devices=2))
    outcome = execute(two, home=home)
    assert outcome.status == "failed"
    assert "rank 1 differs from rank 0 in its code of vlm_ablate" in outcome.message
    assert "install the same revision" in outcome.message
    assert not list(home.stages.glob("*/checkpoint-*")) and holder(home.runs / spec.id) is None


def test_a_rank_with_other_data_is_refused(home: Home, tmp_path: Path) -> None:
    """Its samples are not dealt by their sizes here, so that nothing else would notice."""
    file = write_experiment(tmp_path, plugin="runs.apart", source="apart", steps=1, split="none")
    two, _ = placed(specs_of(load_experiment(file, scale="paper"))[0], Placement(devices=2))
    outcome = execute(two, home=home)
    assert outcome.status == "failed"
    assert "rank 1 has other training data for stage 'align' than rank 0" in outcome.message
