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


PARTS = ("model.connector.depth: 1", "model.connector: {latents: 8, depth: 1, heads: 4, head_dim: 8, kv_heads: 2}")
OTHER = ("three: {cell: {perceiver_layers: 3}}", "three: {set: {model.connector: mlp}}")
UNDECLARED = ("factor: [model.connector.depth]", "factor: [model.architecture]")


def test_a_part_that_arms_set_otherwise_is_one_warning(write: Write) -> None:
    (warning,) = load_experiment(write(PARTS, UNDECLARED), scale="paper").warnings
    assert warning == (
        "model.connector differs between arms, outside the declared factor: latents 8, depth 1, heads 4, head_dim 8, "
        "kv_heads 2 (one) against latents 64, depth 3, heads 16, head_dim 96, kv_heads 4 (three)"
    )


def test_a_part_that_was_exchanged_is_one_warning(write: Write) -> None:
    (warning,) = load_experiment(write(PARTS, UNDECLARED, OTHER), scale="paper").warnings
    assert warning == (
        "model.connector.name differs between arms, outside the declared factor: perceiver (one) against mlp (three)"
    )


def test_an_exchanged_part_does_not_hide_how_arms_with_the_same_one_differ(write: Write) -> None:
    third = ("three: {cell: {perceiver_layers: 3}}", "three: {}\n  mlp: {set: {model.connector: mlp}}")
    (warning,) = load_experiment(write(UNDECLARED, third), scale="paper").warnings
    assert warning == (
        "model.connector differs between arms, outside the declared factor: perceiver, depth 1 (one) against "
        "perceiver, depth 3 (three) against mlp (mlp)"
    )


def test_what_only_some_arms_have_is_one_warning(write: Write) -> None:
    more = "set: {stages.more: {steps: 5, batch_size: 4}, evaluation.benchmarks.extra: {benchmark: okvqa},"
    sources = ' data.mixture.more: {source: {name: pairs, id: x/y}}}'
    loaded = load_experiment(write(("set: {model.connector.depth: 1}", more + sources)), scale="paper")
    assert loaded.warnings[:3] == [
        "stages.pretrain.data.mixture.more differs between arms, outside the declared factor: "
        "pairs (one) against (none) (three)",
        "stages.more differs between arms, outside the declared factor: there (one) against (none) (three)",
        "evaluation.benchmarks.extra differs between arms, outside the declared factor: "
        "okvqa (one) against (none) (three)",
    ]
    assert all("the arms do not train on the same number" in warning for warning in loaded.warnings[3:])


def test_a_declared_field_is_left_out_of_the_warning_about_its_part(write: Write) -> None:
    assert load_experiment(write(PARTS), scale="paper").warnings == [
        "model.connector differs between arms, outside the declared factor: latents 8, heads 4, head_dim 8, "
        "kv_heads 2 (one) against latents 64, heads 16, head_dim 96, kv_heads 4 (three)"
    ]
