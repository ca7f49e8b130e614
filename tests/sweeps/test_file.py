"""A sweep file that is wrong is told so at once, with the place and the nearest right word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.sweeps.toys import RANK, RATE, Oracle, sweep, write_sweep
from vlm_ablate.cli.app import app
from vlm_ablate.cli.sweep import places
from vlm_ablate.cli.sweep_view import plan_view
from vlm_ablate.errors import ConfigError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement
from vlm_ablate.sweeps.loading import load_sweep

RANGE = {"low": 1e-4, "high": 1e-1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"space": {"stages.train.learnin_rate": RANGE}}, "stages.train.learnin_rate: unknown key (did you mean 'lea"),
        ({"space": {"modell.connector.depth": [1]}}, "space.modell.connector.depth: is no field of a run; they begin"),
        ({"space": {"evaluation.shots": [0, 4]}}, "is how a model is asked"),
        ({"space": {"execution.workers": [0, 4]}}, "is how a run is computed"),
        ({"space": {RANK: [0, 8]}}, f"{RANK}: must be greater than 0, not 0"),
        ({"space": {RATE: {"low": 1e-4, "high": 1e-5}}}, "1e-05 is not above low"),
        ({"space": {RATE: {"low": 0.0, "high": 1e-1, "log": True}}}, "is not above 0, as `log` needs"),
        ({"space": {RATE: {"low": math.nan, "high": 1e-1}}}, "low: must be a finite number, not nan"),
        ({"space": {RATE: {"high": 1e-1}}}, "needs `low` and `high`, or `choices`"),
        ({"space": {RATE: {"lo": 1e-4, "high": 1e-1}}}, "unknown key (did you mean 'low'?)"),
        ({"space": {RATE: {"low": 1e-2, "high": 1e-1}}}, "leaves out 0.001, which arm 'plain' has"),
        ({"space": {RATE: RANGE}, "sampler": "grid"}, "a grid needs `choices`, whole numbers or a `step`"),
        ({"space": {RANK: {"low": 1, "high": 2**53}}, "sampler": "grid"}, "more than 10,000 combinations"),
        ({"space": {RATE: {"low": 1e-3, "high": 1.0, "step": 1e-12}}, "sampler": "grid"}, "more than 10,000 combin"),
        ({"space": {RATE: {**RANGE, "when": {RANK: 8}}}}, "is no other field of the space"),
        ({"space": {RATE: {**RANGE, "when": {RANK: 9}}, RANK: [8]}}, "never has the value 9"),
        (
            {"space": {RATE: {**RANGE, "when": {RANK: 8}}, RANK: {"choices": [8], "when": {RATE: 1e-3}}}},
            "the field depends on itself",
        ),
        ({"objective": "vqaa"}, "'vqaa' is not evaluated; the columns are mean, vqa, ocr (did you mean 'vqa'?)"),
        ({"objective": {"score": "vqa", "split": "report"}}, "a sweep looks at the tune split and at no other"),
        ({"set": {"evaluation.benchmarks.vqa.split": "report"}}, "a sweep is scored on the tune split"),
        ({"set": {RATE: 1e-3}}, "stands in the space, too"),
        ({"budget": None}, "says nothing: write trials, hours or flops"),
        ({"sampler": "tpee"}, "must be one of tpe, random, grid, nsga2, not 'tpee' (did you mean 'tpe'?)"),
        ({"sampler": "nsga2"}, "nsga2 weighs two objectives"),
        ({"objective": {"against": "flops"}, "pruner": "median"}, "ranks trials by one number"),
        ({"pruner": "wilcoxon", "seeds": [0, 1, 2, 3]}, "wilcoxon needs 5 seeds a trial to end any, and there are 4"),
        ({"pruner": {"name": "wilcoxon", "p": 0.05}, "seeds": [0, 1, 2, 3, 4]}, "wilcoxon needs 6 seeds a trial"),
        (
            {"set": {"stages.train.data.sequence_length": 256}, "space": {"data.sequence_length": [256, 512]}},
            "changes nothing of arm 'plain'",
        ),
        ({"pruner": "median", "set": {"evaluation.curve": None}}, "`evaluation.curve` is not set"),
        ({"experiment": {"file": "toy.yaml", "arms": ["plain", "plain"], "scale": "paper"}}, "an arm is named twice"),
        ({"name": "a/b"}, "is no name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(write_sweep(tmp_path, **change))
    assert told in str(raised.value)
    assert "sweep.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("experiment", "told"),
    [
        ({"file": "toys.yaml"}, "unknown experiment file 'toys.yaml'"),
        ({"arms": ["plane"]}, "did you mean 'plain'?"),
        ({"scale": "papr"}, "did you mean 'paper'?"),
    ],
)
def test_names_that_nothing_has(tmp_path: Path, experiment: dict[str, Any], told: str) -> None:
    whole = {"file": "toy.yaml", "arms": ["plain"], "scale": "paper", **experiment}
    with pytest.raises(VlmAblateError) as raised:
        load_sweep(write_sweep(tmp_path, experiment=whole))
    assert told in str(raised.value)


def test_a_value_that_no_arm_has_is_left_as_it_is_in_the_first_trial(tmp_path: Path) -> None:
    loaded = load_sweep(write_sweep(tmp_path, space={"stages.train.backbone_learning_rate": RANGE, RATE: RANGE}))
    assert loaded.studies[0].first_trials() == [({RATE: 1e-3}, ["stages.train.backbone_learning_rate"])]


def test_the_plan_of_a_grid_counts_the_first_trial_that_has_none_of_its_values(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_ablate.cli.sweep_view._costs", lambda *_: "")
    space = {"stages.train.backbone_learning_rate": [1e-4, 1e-3]}
    file = write_sweep(tmp_path, sampler="grid", space=space, budget=None)
    told = str(plan_view(load_sweep(file), home)[0])
    (result,) = sweep(file, home, Oracle())
    assert len(result.trials) == 3 and "3 trials of 1 seed, 3 runs at most" in told


@pytest.mark.parametrize(("asked", "at_a_time"), [(None, 2), (1, 8), (4, 2), (0, 8)])
def test_so_many_trials_at_a_time_as_their_runs_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, at_a_time: int
) -> None:
    """More would be proposed without what those before them show."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    loaded = load_sweep(write_sweep(tmp_path, set={"execution.devices": 4}))
    assert places(Placement(devices=asked), loaded) == at_a_time


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("postgresql://nobody:secret@127.0.0.1:9/none", "does not answer: postgresql://***@127.0.0.1:9/none"),
        ("mysql://somewhere/db", "neither sqlite:///FILE nor postgresql://"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_before_any_trial(tmp_path: Path, uri: str, told: str) -> None:
    file = write_sweep(tmp_path)
    result = CliRunner().invoke(app, ["sweep", "show", str(file), "--storage", uri, "--home", str(tmp_path / "home")])
    assert result.exit_code == 1
    assert told in result.output.replace("\n", "") and "secret" not in result.output


def test_a_sweep_that_was_never_run_has_nothing_to_show(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sweep", "show", str(write_sweep(tmp_path)), "--home", str(tmp_path / "home")])
    assert result.exit_code == 1 and "there is no study yet" in result.output
