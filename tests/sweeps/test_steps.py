"""Numbers in steps are one value each for samplers, grids, files and keys; conditions may reach over two fields."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sweeps.toys import EXPERIMENT, RANK, RATE, Oracle, sweep, write_sweep
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError
from vlm_ablate.home import Home
from vlm_ablate.runs.spec import specs_of
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.space import Space

DROPOUT = "stages.train.lora.dropout"
STEPS: dict[str, Any] = {DROPOUT: {"low": 0.1, "high": 0.5, "step": 0.1}}
VALUES = [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.timeout(120)
def test_any_sampler_ends_once_all_numbers_in_steps_were_tried_each_in_the_run_of_a_file_that_writes_it(
    tmp_path: Path, home: Home
) -> None:
    (result,) = sweep(write_sweep(tmp_path, space=STEPS, budget={"hours": 9.0}), home, launcher := Oracle())
    assert sorted({trial.values[DROPOUT] for trial in result.finished}) == VALUES
    loads = [load_experiment(tmp_path / "toy.yaml", scale="paper", sets=[f"{DROPOUT}={v}"]) for v in VALUES]
    wanted = [specs_of(loaded, seeds=[0], arms=["plain"])[0].stage_keys[-1].key for loaded in loads]
    assert sorted(spec.stage_keys[-1].key for spec in launcher.computed) == sorted(wanted)


@pytest.mark.timeout(120)
def test_a_grid_asks_for_the_numbers_in_steps_that_another_sampler_left(tmp_path: Path, home: Home) -> None:
    sweep(write_sweep(tmp_path, space=STEPS, budget={"trials": 4}), home, first := Oracle())
    (result,) = sweep(write_sweep(tmp_path, space=STEPS, sampler="grid", budget=None), home, Oracle())
    assert sorted({trial.values[DROPOUT] for trial in result.trials}) == VALUES
    left = {*VALUES} - {spec.config.stages["train"].lora.dropout for spec in first.computed}
    assert sorted(trial.values[DROPOUT] for trial in result.trials[4:]) == sorted(left)


@pytest.fixture
def crossed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep over an arm that has blocks of cross-attention and one that has not."""
    experiment = copy.deepcopy(EXPERIMENT)
    experiment["arms"]["crossed"] = {
        "label": "Crossed", "set": {"model.architecture": {"name": "cross_attention", "every": 2}}}  # fmt: skip
    monkeypatch.setattr("tests.sweeps.toys.EXPERIMENT", experiment)
    assert yaml.safe_dump(experiment)
    return {"file": "toy.yaml", "arms": ["plain", "crossed"], "scale": "paper"}


SPACE = {
    "model.architecture.every": {"choices": [1, 2], "when": {"arm": "crossed"}},
    "model.architecture.qk_norm": {"choices": [True, False], "when": {"model.architecture.every": 2}},
}


@pytest.mark.parametrize("per_arm", [False, True])
def test_a_field_whose_condition_only_one_arm_meets_is_checked_in_that_arm_alone(
    tmp_path: Path, crossed: dict[str, Any], per_arm: bool
) -> None:
    space = SPACE | {RATE: [1e-3, 1e-2]}
    file = write_sweep(tmp_path, experiment={**crossed, "per_arm": per_arm}, space=space)
    loaded = load_sweep(file)
    assert len(loaded.studies) == 1 + per_arm
    told = {tuple(sorted(study.space.dimensions)) for study in loaded.studies}
    assert (RATE,) in told or not per_arm
    (*_, (values, untouched)) = loaded.studies[-1].first_trials()
    assert untouched == [] and values["model.architecture.qk_norm"] is False


def test_a_value_that_such_a_field_cannot_have_is_told_of_it(tmp_path: Path, crossed: dict[str, Any]) -> None:
    space = SPACE | {
        "model.architecture.gate": {"choices": ["scalar", "vectr"], "when": {"model.architecture.every": 1}}
    }
    with pytest.raises(ConfigError, match=r"gate: must be one of scalar, vector, not 'vectr' \(did you mean 'vector'"):
        load_sweep(write_sweep(tmp_path, experiment=crossed, space=space))


def test_only_values_that_steps_reach_are_checked_against_the_experiment(tmp_path: Path) -> None:
    """0.9 + 0.2 would be no probability; nothing ever proposes it."""
    space = {DROPOUT: {"low": 0.1, "high": 1.05, "step": 0.2}, RANK: {"low": 8, "high": 31, "step": 8}}
    (study,) = load_sweep(write_sweep(tmp_path, space=space)).studies
    assert isinstance(study.space, Space) and len(list(study.space.grid())) == 5 * 3
