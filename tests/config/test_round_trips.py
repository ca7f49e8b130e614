"""What is written out of a run's configuration is read back as that run: whole, as readers see it, as a diff."""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.config.compose import flatten, nest
from vlm_ablate.config.decides import dump
from vlm_ablate.config.diff import ABSENT, Change, arm_diff
from vlm_ablate.config.expand import LoadedExperiment, experiment_files, find_experiment, load_experiment
from vlm_ablate.config.moved import recorded, upgraded
from vlm_ablate.config.places import is_component
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import apply_diff, composed, run_data, short
from vlm_ablate.config.shipped import experiment_name
from vlm_ablate.config.yaml_reader import parse, to_yaml

ROOT = Path(__file__).parents[2] / "experiments"
FILES = experiment_files(ROOT)
FILE = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


@cache
def loaded(file: Path) -> LoadedExperiment:
    """At one of the scales, another for each file."""
    return load_experiment(file, scale=("laptop", "paper", "workstation", "gpu")[FILES.index(file) % 4])


def as_run(sections: Any) -> RunConfig:
    return RunConfig.model_validate(run_data(composed(sections)))


@FILE
def test_every_run_of_a_shipped_file_is_read_back_from_what_is_written_of_it(file: Path) -> None:
    for arm in loaded(file).arms.values():
        config = arm.config
        assert as_run(parse(to_yaml(short(config)), "x")[0]) == config
        assert RunConfig.model_validate(config.model_dump()) == config
        earlier = recorded(config)
        assert earlier is None or RunConfig.model_validate(upgraded(earlier)) == config
        parts = [flatten(dump(config, what)) for what in ("training", "score", "execution")]
        whole = flatten(config.model_dump(mode="json"))
        assert {path: value for part in parts for path, value in part.items()} == whole
        assert sum(map(len, parts)) == len(whole), "no field decides two things"


def changed(base: RunConfig, changes: list[Change]) -> RunConfig:
    """The base with what a diff tells; of a part that was exchanged, nothing of the old one is left."""
    sections = composed(short(base))
    exchanged = [c.path.rpartition(".")[0] for c in changes if c.path.endswith(".name")]
    for change in changes:
        keys = change.path.split(".")
        part = ".".join(keys[:-1])
        if part in exchanged and keys[-1] == "name" and is_component(tuple(keys[:-1])):
            sections = apply_diff(sections, nest({part: {"replace": True, "name": change.arm}}))
    for change in changes:
        if change.arm != ABSENT:
            sections = apply_diff(sections, nest({change.path: change.arm}))
    for change in changes:
        if change.arm == ABSENT:
            _remove(sections, change.path.split("."))
    return as_run(sections)


def _remove(sections: dict[str, Any], keys: list[str]) -> None:
    """Take away a field from wherever it stands, and what is empty without it."""
    stages = sections["stages"].values() if keys[0] == "data" else ()
    for top in [sections, *stages]:
        holders: list[Any] = [top]
        for key in keys[:-1]:
            holders.append(holders[-1].get(key) if isinstance(holders[-1], dict) else None)
        for holder, key in reversed([*zip(holders, keys, strict=True)]):
            if isinstance(holder, dict) and (holder.get(key) == {} or key == keys[-1]):
                holder.pop(key, None)


@FILE
def test_the_diff_of_an_arm_is_all_that_makes_it_of_the_base(file: Path) -> None:
    experiment = loaded(file)
    for arm in experiment.arms.values():
        changes = arm_diff(experiment.base, arm.config)
        assert changed(experiment.base, changes) == arm.config, changes
        assert (changes == []) is (arm.config == experiment.base)
        assert all(change.base != change.arm for change in changes)
        assert len({change.path for change in changes}) == len(changes)


@FILE
def test_a_shipped_file_is_found_by_the_name_that_people_are_told(file: Path) -> None:
    name = experiment_name(file)
    assert find_experiment(name) == find_experiment(f"{name}.yaml") == file
    assert experiment_name(find_experiment(name)) == name


WORDS = st.sampled_from(
    ["yes", "on", "1e-4", "12e4567", "1e5", ".5", "0o17", "0x1F", "010", "1_000", "1:30", "true", "~", "null", "<<",
     "=", "*", "&a", "2024-01-02", "", " a", "a: b", "a #b", "- x", "ä\n\tö", "'", '"', "{", ".inf", "NaN", "+1", "."]
)  # fmt: skip
TEXTS = WORDS | st.text("aä中 :#-'\"\n\t0e.", max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | TEXTS,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(TEXTS.filter(lambda t: "." not in t), below, max_size=3)
    ),
    max_leaves=8,
)


def kinds(value: Any) -> Any:
    """The value with its types, which `==` does not tell: 1 and 1.0 and true."""
    if isinstance(value, dict):
        return {key: kinds(below) for key, below in value.items()}
    return [kinds(below) for below in value] if isinstance(value, list) else (type(value), value)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(TEXTS.filter(lambda text: "." not in text), PLAIN, max_size=4))
def test_plain_data_is_read_back_as_it_was_written(data: dict[str, Any]) -> None:
    assert kinds(parse(to_yaml(data), "x")[0]) == kinds(data)


def test_every_key_is_told_at_the_line_on_which_it_stands() -> None:
    draw = random.Random(1)

    def some(depth: int) -> Any:
        if not depth:
            return draw.choice([1, "x", None, [1, 2]])
        return {f"k{draw.randrange(10**6)}": some(draw.randrange(depth)) for _ in range(3)}

    for _ in range(10):
        data = some(4)
        text = to_yaml(data)
        found = parse(text, "x.yaml")[1]
        for path, location in found.items():
            if path[-1].startswith("k"):
                assert text.splitlines()[location.line - 1].strip().startswith(f"{path[-1]}:")
        assert {path for path in found if path[-1].startswith("k")} >= set(flatten(data))


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.integers(0, 3), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3)))
def test_dotted_paths_are_the_nested_mapping_in_any_order(data: Any) -> None:
    if not isinstance(data, dict):
        return
    before = copy.deepcopy(data)
    leaves = [(".".join(path), value) for path, value in flatten(data).items() if path]
    assert nest(dict(leaves)) == nest(dict(reversed(leaves))) == data == before
