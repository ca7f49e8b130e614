"""Some arms of a file, as if it had no others: settings reach them only, warnings and claims are among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_ablate.config.diff import ABSENT, Change, arm_diff
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError
from vlm_ablate.runs.spec import specs_of

Write = Callable[..., Path]
LINEAR = ("set: {model.connector.depth: 1}", "label: Linear, set: {model.connector: linear}")


def test_a_setting_reaches_the_named_arms_only(write: Write) -> None:
    file = write(LINEAR)
    loaded = load_experiment(file, scale="tiny", sets=["model.connector.latents=5"], arms=["three"])
    assert list(loaded.arms) == ["three"] and loaded.left_out == {"one": "Linear"}
    assert loaded.arms["three"].config.model.connector.latents == 5
    assert [spec.arm for spec in specs_of(loaded, seeds=[0])] == ["three"]


def test_named_arms_are_the_same_runs_as_in_the_whole_file(write: Write) -> None:
    whole = load_experiment(write(), scale="tiny")
    for name in whole.arms:
        (spec,) = specs_of(load_experiment(write(), scale="tiny", arms=[name]), seeds=[0])
        assert spec == specs_of(whole, arms=[name], seeds=[0])[0] and spec.id


def test_arms_keep_the_order_of_the_file(write: Write) -> None:
    loaded = load_experiment(write(), scale="tiny", arms=["three", "one"])
    assert list(loaded.arms) == ["one", "three"] and not loaded.left_out


def test_claims_stay_where_both_arms_do(write: Write) -> None:
    whole, some = (load_experiment(write(), scale="tiny", arms=arms) for arms in (None, ["one"]))
    assert len(whole.experiment.table.claims) == 1 and list(whole.experiment.arms) == ["one", "three"]
    assert some.experiment.table.claims == [] and list(some.experiment.arms) == ["one"]


def test_warnings_compare_the_named_arms_only(write: Write) -> None:
    file = write(("model.connector.depth: 1", "model.connector.depth: 1, data.sequence_length: 99"))
    assert load_experiment(file, scale="tiny").warnings
    assert load_experiment(file, scale="tiny", arms=["one"]).warnings == []


def test_parts_without_a_stand_in_are_those_of_the_named_arms(write: Write) -> None:
    file = write(("model.connector.depth: 1", "model.vision.id: org/other"))
    assert "no stand-in for model.vision: org/other" in load_experiment(file, scale="tiny").warnings[-1]
    assert load_experiment(file, scale="tiny", arms=["three"]).warnings == []


@pytest.mark.parametrize("arms", [None, ["one"]])
def test_a_setting_that_the_base_does_not_take_stands_in_the_diff(write: Write, arms: list[str] | None) -> None:
    file = write(LINEAR, ("three: {cell: {perceiver_layers: 3}}", "three: {set: {model.connector: mlp}}"))
    loaded = load_experiment(file, scale="tiny", sets=["model.connector.bias=false"], arms=arms)
    assert arm_diff(loaded.base, loaded.arms["one"].config) == [
        Change("model.connector.name", "perceiver", "linear"),
        Change("model.connector.bias", ABSENT, False),
    ]


def test_the_other_arms_must_be_valid_as_written(write: Write) -> None:
    file = write(("model.connector.depth: 1", "model.connector.deep: 1"))
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        load_experiment(file, scale="tiny", arms=["three"])
