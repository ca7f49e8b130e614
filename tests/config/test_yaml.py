"""What YAML may say: values as version 1.2 reads them, strict types, nothing twice, nothing without bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.cli.console import arm_list
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.loading import arms_text
from vlm_ablate.config.yaml_reader import parse
from vlm_ablate.errors import ConfigError

Write = Callable[..., Path]


def read(text: str) -> Any:
    return parse(text, "x.yaml")[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("True", True), ("false", False), ("~", None), ("", None), ("010", 10),
        ("0o17", 15), ("0x1F", 31), ("1:30:00", "1:30:00"), ("1_000", "1_000"), ("1e-4", 1e-4), ("-2.5E3", -2500.0),
        (".5", 0.5), ("2024-01-02", "2024-01-02"), ("'5'", "5"), ("0b11", "0b11"), ("=", "="), ("12e", "12e"),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(written: str, value: Any) -> None:
    found = read(f"a: {written}")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.pretrain.steps=true", "must be a whole number, not True"),
        ("stages.pretrain.steps=yes", "must be a whole number, not 'yes'"),
        ("stages.pretrain.steps='5'", "must be a whole number, not '5'"),
        ("stages.pretrain.steps=5.0", "must be a whole number, not 5.0"),
        ("stages.pretrain.learning_rate=false", "must be a number, not False"),
        ("stages.pretrain.learning_rate=.inf", "must be a finite number, not inf"),
        ("stages.pretrain.learning_rate=.nan", "must be a finite number, not nan"),
        ("evaluation.blind=1", "must be a boolean, not 1"),
        ("stages.pretrain.betas=[0.9, 1.0]", "must be less than 1, not 1.0"),
        ("model.connector.latents=on", "must be a whole number, not 'on'"),
        ("seeds=[-1]", "must be greater than or equal to 0, not -1"),
    ],
)
def test_a_value_of_another_type_is_refused(write: Write, setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(), scale="tiny", sets=[setting])
    assert [p.message for p in caught.value.problems] == [message]


def test_plain_data_of_a_run_is_read_again(write: Write) -> None:
    config = load_experiment(write(), scale="tiny").base
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    assert type(config).model_validate_json(config.model_dump_json()) == config


_CLAIM = "    - {text: depth hardly matters, better: one, worse: three, relation: similar}\n"
NO_CLAIMS = (f"table:\n  claims:\n{_CLAIM}", "")
"""They name arms."""


@pytest.mark.parametrize("name", ["64", "1e-4", "true", "~", ".5"])
def test_an_arm_whose_name_is_no_text_is_one_clear_error(write: Write, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(("  three: {", f"  {name}: {{"), NO_CLAIMS), scale="tiny")
    (problem,) = caught.value.problems
    assert problem.file == "experiments/demo.yaml:21" and "put it in quotes" in problem.message


@pytest.mark.parametrize("name", ["on", "2024-01-02", "'64'", "a, b", "two words"])
def test_an_arm_with_any_text_for_a_name_can_be_chosen(write: Write, name: str) -> None:
    file = write(("  three: {", f"  {name}: {{"), NO_CLAIMS)
    name = name.strip("'")
    loaded = load_experiment(file, scale="tiny", arms=arm_list(arms_text(["one", name])))
    assert list(loaded.arms) == ["one", name]
    assert list(load_experiment(file, scale="tiny", arms=arm_list(arms_text([name]))).arms) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "a.b: 1\na: {b: 2}",
        "a: {b: 2}\na.b: 1",
        "a.b: 1\na.b.c: 2",
        "a: {b.c: 1}\na.b: {c: 2}",
        "a.b: [1]\na: {b: [1]}",
    ],
)
def test_one_path_in_two_spellings_is_an_error_that_names_both_lines(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x.yaml:2: .*twice, in two spellings \(the other on line 1\)"):
        read(text)


def test_two_spellings_of_a_mapping_with_other_fields_are_none_of_one_path() -> None:
    assert read("a.b: {c: 1}\na: {b: {d: 2}}") == {"a.b": {"c": 1}, "a": {"b": {"d": 2}}}


def test_an_alias_of_a_mapping_with_merged_keys_is_that_mapping() -> None:
    found = read("b: &b {label: B, n: 1}\nc: &c\n  <<: *b\n  label: C\nd: *c\ne: {<<: [*c, *b], x: 2}")
    assert found["c"] == found["d"] == {"label": "C", "n": 1}
    assert found["e"] == {"label": "C", "n": 1, "x": 2}, "the first of several goes before the others"


BOMB = "a0: &a0 [1,1,1,1,1,1,1,1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9))
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 8)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {b: *a}", "an alias of what it stands in"),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: &a\n  <<: *a\n  b: 1", "merged into itself"),
        (BOMB, "more than 100,000 values"),
        (MERGES, "more than 100,000 merged keys"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "more than 50 mappings and lists inside each other"),
        ("a: " + "9" * 6000, "no number"),
        ("a: {<<: 5}", "<< takes mappings"),
        ("a: !!bool maybe", "x.yaml:1:4: not valid YAML: no bool: maybe"),
        ("a: !!timestamp soon", "no timestamp: soon"),
        ("a: !!timestamp 2001-13-45", "no timestamp: 2001-13-45"),
        ("a: \udcff", "not UTF-8 text"),
    ],
    ids=["alias", "list", "merge", "bomb", "merges", "deep", "digits", "merged number", "bool", "time", "date", "utf"],
)
def test_what_has_no_bounds_is_one_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


@pytest.mark.parametrize("name", ["../../evil", "/abs/evil", "a/../b", "a//b", "a/", ".hidden", "a b", ""])
def test_a_name_is_not_a_path(write: Write, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name: words of"):
        load_experiment(write(("name: demo/depth", f"name: '{name}'")), scale="tiny")


def test_arms_of_a_base_beside_the_files_own_are_told(write: Write) -> None:
    write()
    child = "base: demo.yaml\nname: demo/child\narms:\n  four: {set: {model.connector.depth: 4}}\n"
    loaded = load_experiment(write(name="child.yaml", text=child), scale="tiny")
    assert list(loaded.arms) == ["one", "three", "four"]
    assert loaded.warnings == [
        "one, three: arms of experiments/demo.yaml beside this file's own; `replace: true` in `arms` leaves them out"
    ]
    alone = child.replace("arms:\n", "arms:\n  replace: true\n") + "table: {claims: []}\n"
    assert load_experiment(write(name="child.yaml", text=alone), scale="tiny").warnings == []


def test_an_exchanged_part_is_one_warning(write: Write) -> None:
    file = write(("factor: [model.connector.depth]", "factor: []"),
                 ("model.connector.depth: 1", "model.connector: linear"))  # fmt: skip
    assert load_experiment(file, scale="tiny").warnings == [
        "model.connector.name differs between arms, outside the declared factor: linear (one) against perceiver (three)"
    ]


def test_a_setting_that_names_a_part_and_one_of_its_fields_keep_both(write: Write) -> None:
    for sets in (["model.connector=mlp", "model.connector.bias=false"],
                 ["model.connector.bias=false", "model.connector=mlp"]):  # fmt: skip
        loaded = load_experiment(write(), scale="tiny", sets=sets, arms=["three"])
        connector = loaded.arms["three"].config.model.connector
        assert (connector.name, connector.bias) == ("mlp", False)
