"""Whatever is put in the place of whatever: the file loads, or every problem names a file that has it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError, UnknownNameError

from .conftest import EXPERIMENT, SCALE

Write = Callable[..., Path]
JUNK: tuple[Any, ...] = (None, 5, -1.5, True, "junk", [], [[]], {}, {"junk": 1}, {"replace": True})
TUNED = """
tuned:
  - {when: {model.connector.name: perceiver}, set: {stages.*.learning_rate: 0.5}}
"""


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of nested mappings and lists but the whole."""
    if path:
        yield path
    steps = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in steps:
        yield from places(value, (*path, key))


def damaged(text: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(what was done, the text with it): one place holds something else, or one key is gone or misspelled."""
    data, draw = yaml.safe_load(text), random.Random(seed)
    for path in draw.choices(list(places(data)), k=count):
        broken = copy.deepcopy(data)
        holder = broken
        for key in path[:-1]:
            holder = holder[key]
        kind = draw.choice(["junk", "junk", "junk", "gone", "misspelled"])
        old = holder.pop(path[-1]) if isinstance(holder, dict) and kind != "junk" else None
        if kind == "misspelled" and isinstance(holder, dict):
            holder[f"{path[-1]}x"] = old
        junk = draw.choice(JUNK)
        if kind == "junk":
            holder[path[-1]] = junk
        yield f"{'.'.join(map(str, path))} {kind} {junk if kind == 'junk' else ''}", yaml.safe_dump(broken)


@pytest.mark.parametrize("which", ["demo.yaml", "tiny.yaml"])
def test_a_file_with_anything_in_any_place_loads_or_is_told_of(write: Write, which: str) -> None:
    text, told = (EXPERIMENT, 0) if which == "demo.yaml" else (SCALE + TUNED, 0)
    for what, broken in damaged(text, 80, seed=len(which)):
        file = write(text=broken) if which == "demo.yaml" else write(scale=broken)
        try:
            load_experiment(file, scale="tiny")
        except ConfigError as error:
            told += 1
            for problem in error.problems:
                assert problem.file.partition(":")[0] in ("experiments/demo.yaml", "experiments/scales/tiny.yaml"), what
                assert "should" not in problem.message and "Input" not in problem.message, problem
            assert any(which in problem.file for problem in error.problems), f"{what}: {error}"
        except UnknownNameError as error:
            pytest.fail(f"{what}: {error}")
    assert told > 40, "most are mistakes"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            "evaluation: {benchmarks: {vqav2: none}}",
            "evaluation.benchmarks.vqav2: must be a mapping of keys, not 'none'",
        ),
        ("evaluation: {benchmarks: {more: {shots: 2}}}", "evaluation.benchmarks.more.benchmark: is missing"),
        ("evaluation: {benchmarks: {vqav2: null}}", "evaluation.benchmarks: must have at least 1, and has none"),
        ("data: {mixture: {web: null}}", "data.mixture.web: must be a mapping of keys, not None"),
        ("data: {mixture: {web: none}}", "data.mixture.web: must be a mapping of keys, not 'none'"),
        ("data: {mixture: {more: {weight: 2}}}", "data.mixture.more.source: is missing"),
        ("stages: {more: {batch_size: 4, data: {climb: {5: 64}}}}", "stages.more.steps: is missing"),
        ("stages: 5", "stages: must be a mapping of keys, not 5"),
    ],
)
def test_what_overrides_make_no_part_or_stage_is_one_problem_of_the_scale(
    write: Write, written: str, told: str
) -> None:
    scale = SCALE[: SCALE.index("overrides:")] + f"overrides:\n  {written}\n"
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(scale=scale), scale="tiny")
    (problem,) = caught.value.problems
    assert str(problem) == f"experiments/scales/tiny.yaml:{scale.count(chr(10))}: {told}"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stages.pretrain.betas=[0.9, 0.9, 0.9]", "stages.pretrain.betas: must have at most 2, and has 3"),
        ("stages.pretrain.lora.vision_targets=[5]", "stages.pretrain.lora.vision_targets[0]: must be a string, not 5"),
        ("stages.pretrain.lora.vision_targets=5", "stages.pretrain.lora.vision_targets: must be a string, not 5"),
    ],
)
def test_messages_are_sentences_of_this_package(write: Write, setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(), scale="tiny", sets=[setting])
    assert [f"{problem.path}: {problem.message}" for problem in caught.value.problems] == [told]
    with pytest.raises(ConfigError, match=r"tiny\.yaml:1: name: must match \^"):
        load_experiment(write(scale=SCALE.replace("name: tiny", "name: a b")), scale="tiny")


def test_a_column_that_is_null_is_left_out_whoever_writes_it(write: Write) -> None:
    """As a stage is: by a file over its base, by an arm, by a scale, by a setting."""
    two = ("    vqav2: {benchmark: vqav2}", "    vqav2: {benchmark: vqav2}\n    okvqa: {benchmark: okvqa}")
    null = "evaluation: {benchmarks: {okvqa: null}}"
    write(two)
    child = write(text=f"base: demo.yaml\nname: child\n{null}\n", name="child.yaml")
    arm = write(two, ("three: {", f"three: {{set: {{{null}}}, "), name="arm.yaml")
    scaled = write(two, name="scaled.yaml", scale=SCALE.replace("overrides:", f"overrides:\n  {null}"))
    left = [load_experiment(scaled, scale="tiny")]
    write()
    left += [load_experiment(child, scale="tiny"), load_experiment(arm, scale="tiny")]
    left.append(load_experiment(write(two), scale="tiny", sets=["evaluation.benchmarks.okvqa=null"]))
    assert [list(loaded.arms["three"].config.evaluation.benchmarks) for loaded in left] == [["vqav2"]] * 4
    claim = "table: {claims: [{text: t, better: one, worse: three, metric: okvqa}]}\n"
    with pytest.raises(ConfigError, match="no column 'okvqa'; the columns are mean, vqav2"):
        load_experiment(write(text=child.read_text() + claim, name="child.yaml"), scale="tiny")
