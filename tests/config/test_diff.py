"""The diff that `plan` prints, and the warnings about unfair comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlm_ablate.config.diff import ABSENT, Change, arm_diff
from vlm_ablate.config.expand import load_experiment

Write = Callable[..., Path]


def test_diff_is_what_the_arm_changes(write: Write) -> None:
    loaded = load_experiment(write(), scale="paper")
    assert arm_diff(loaded.base, loaded.arms["one"].config) == [Change("model.connector.depth", 3, 1)]
    assert arm_diff(loaded.base, loaded.arms["three"].config) == []


def test_exchanged_part_shows_only_what_it_sets(write: Write) -> None:
    file = write(("model.connector.depth: 1", "model.connector: {name: mapping_network, depth: 3, tokens: 32}"))
    loaded = load_experiment(file, scale="paper")
    assert arm_diff(loaded.base, loaded.arms["one"].config) == [
        Change("model.connector.name", "perceiver", "mapping_network"),
        Change("model.connector.depth", ABSENT, 3),
    ]


def test_declared_factor_is_no_warning(write: Write) -> None:
    assert load_experiment(write(), scale="tiny").warnings == []


def test_difference_outside_the_factor_is_warned_about(write: Write) -> None:
    file = write(("model.connector.depth: 1", "model.connector.depth: 1, data.sequence_length: 99"))
    assert load_experiment(file, scale="tiny").warnings == [
        "data.sequence_length differs between arms, outside the declared factor: 99 (one) against 2048 (three)"
    ]


def test_unequal_budget_is_warned_about_even_as_a_factor(write: Write) -> None:
    file = write(
        ("factor: [model.connector.depth]", "factor: [model, stages.*.steps]"),
        ("model.connector.depth: 1", "stages.pretrain.steps: 3000"),
    )
    assert load_experiment(file, scale="paper").warnings == [
        "the arms do not train on the same number of optimiser steps: 3000 (one) against 6000 (three)",
        "the arms do not train on the same number of training sequences: 48000 (one) against 96000 (three)",
    ]


def test_what_does_not_change_the_outcome_is_no_warning(write: Write) -> None:
    file = write(("model.connector.depth: 1", "execution.micro_batch_size: 2"))
    assert load_experiment(file, scale="tiny").warnings == []
