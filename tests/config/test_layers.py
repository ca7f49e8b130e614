"""Which of the places that may write a field wins, and that a mistake is told of the place that wrote it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.config.compose import parse_sets
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError

from .conftest import EXPERIMENT, SCALE

Write = Callable[..., Path]

LAYERS = ("base of the file", "file", "arm", "values of the scale", "base of the scale", "overrides of the scale",
          "file on the scale", "tuned by the scale", "tuned by a sweep", "setting")  # fmt: skip
"""From the lowest to the highest."""
FIELD = "weight_decay"


class Layered:
    """An experiment at scale tiny in which some layers write `stages.pretrain.weight_decay`."""

    def __init__(self, write: Write, values: Mapping[str, Any]) -> None:
        at = {layer: f"{{pretrain: {{{FIELD}: {values[layer]}}}}}" for layer in values}
        file, scale = EXPERIMENT, SCALE
        if "file" in at:
            file = file.replace("batch_size: 16}", f"batch_size: 16, {FIELD}: {values['file']}}}")
        if "arm" in at:
            file = file.replace("{model.connector.depth: 1}", f"{{model.connector.depth: 1, stages: {at['arm']}}}")
        if "tuned by a sweep" in at:
            told = f"stages.pretrain.{FIELD}: {values['tuned by a sweep']}"
            tuned = f"tuned: {{sweep: s, trial: 1, scale: tiny, set: {{{told}}}}}"
            file = file.replace("one: {", f"one: {{{tuned}, ")
        if "file on the scale" in at:
            file += f"scales:\n  tiny:\n    overrides: {{stages: {at['file on the scale']}}}\n"
        if "values of the scale" in at:
            told = f"  stages.pretrain.{FIELD}: {{'*': {values['values of the scale']}}}\n"
            scale = scale.replace("values:\n", f"values:\n{told}")
        if "overrides of the scale" in at:
            told = f"  stages.pretrain.{FIELD}: {values['overrides of the scale']}\n"
            scale = scale.replace("overrides:\n", f"overrides:\n{told}")
        if "tuned by the scale" in at:
            told = f"stages.pretrain.{FIELD}: {values['tuned by the scale']}"
            scale += f"tuned:\n  - when: {{model.architecture.name: autoregressive}}\n    set: {{{told}}}\n"
        self.files = [write(text="base: _below.yaml\n" + file, scale="base: _under.yaml\n" + scale)]
        folder = self.files[0].parent
        self.files += [folder / "_below.yaml", folder / "scales" / "_under.yaml", folder / "scales" / "tiny.yaml"]
        stages = at.get("base of the file", "{}")
        self.files[1].write_text(f"stages: {stages}\n")
        overrides = at.get("base of the scale", "{}")
        self.files[2].write_text(f"overrides:\n  stages: {overrides}\n")
        self.sets = [f"stages.pretrain.{FIELD}={values['setting']}"] if "setting" in values else []

    def found(self) -> Any:
        loaded = load_experiment(self.files[0], scale="tiny", sets=self.sets)
        return getattr(loaded.arms["one"].config.stages["pretrain"], FIELD)

    def places(self, value: str) -> list[str]:
        """`file:line` of every line that has a value; of a setting, the setting."""
        lines = [
            f"{file.relative_to(Path.cwd())}:{number}"
            for file in self.files
            for number, line in enumerate(file.read_text().splitlines(), 1)
            if value in line
        ]
        return lines + [f"--set {told}" for told in self.sets if value in told]


def some_layers(count: int) -> list[list[str]]:
    """Each alone, all, and random choices."""
    choose = random.Random(3)
    several = [sorted(choose.sample(LAYERS, choose.randint(2, 8)), key=LAYERS.index) for _ in range(count)]
    return [[layer] for layer in LAYERS] + [list(LAYERS)] + several


@pytest.mark.parametrize("layers", some_layers(16), ids=lambda layers: "+".join(str(LAYERS.index(n)) for n in layers))
def test_the_highest_place_that_writes_a_field_wins(write: Write, layers: list[str]) -> None:
    values = {layer: (1 + LAYERS.index(layer)) / 16 for layer in layers}
    assert Layered(write, values).found() == max(values.values())


@pytest.mark.parametrize("layers", some_layers(8), ids=lambda layers: "+".join(str(LAYERS.index(n)) for n in layers))
def test_a_mistake_is_told_of_the_place_that_wrote_it(write: Write, layers: list[str]) -> None:
    *others, wrong = layers
    layered = Layered(write, {**dict.fromkeys(others, 0.5), wrong: "wrong"})
    with pytest.raises(ConfigError) as caught:
        layered.found()
    (problem,) = caught.value.problems
    assert [problem.file] == layered.places("wrong")
    assert problem.path.endswith(f"stages.pretrain.{FIELD}")
    assert problem.message.endswith("must be a number, not 'wrong'")


def test_settings_of_one_path_are_applied_in_the_order_in_which_they_are_given() -> None:
    draw = random.Random(5)
    for _ in range(30):
        given = [(".".join(draw.choices("ab", k=2)), draw.randint(0, 9)) for _ in range(draw.randint(1, 6))]
        found = parse_sets([f"{path}={value}" for path, value in given])
        expected: dict[str, dict[str, int]] = {}
        for path, value in given:
            head, below = path.split(".")
            expected.setdefault(head, {})[below] = value
        assert found.data == expected
        assert str(found.where(tuple(given[-1][0].split(".")))) == f"--set {given[-1][0]}={given[-1][1]}"


@pytest.mark.parametrize("scale", ["paper", "tiny"])
def test_a_stage_has_the_files_data_whoever_brings_it(write: Write, scale: str) -> None:
    """At a scale it is what the scale makes of the data of a stage that the file has."""
    more = "{steps: 10, batch_size: 4}"
    put = ("mixture:\n", "sequence_length: 99\n  image: {size: 70}\n  mixture:\n")
    scales = SCALE.replace("  data: {mixture: {replace: true, offline: {source: offline}}}\n", "").replace(
        "values:\n", "sources:\n  laion/laion-coco: {use: {name: offline}}\nvalues:\n  data.image.size: {70: 32}\n"
    )
    stage = ("  pretrain: {", f"  more: {more}\n  pretrain: {{")
    by_file = load_experiment(write(put, stage, scale=scales), scale=scale).arms["three"].config
    arm = ("three: {", f"three: {{set: {{stages.more: {more}}}, ")
    by_arm = load_experiment(write(put, arm, scale=scales), scale=scale).arms["three"].config
    by_hand = load_experiment(write(put, scale=scales), scale=scale, sets=[f"stages.more={more}"]).arms["three"].config
    assert by_file.stages["more"].data == by_file.stages["pretrain"].data
    assert by_file.stages["more"] == by_arm.stages["more"] == by_hand.stages["more"]
    if scale == "tiny":
        told = scales.replace("  stages: {", f"  stages: {{more: {more}, ")
        by_scale = load_experiment(write(put, scale=told), scale=scale).arms["three"].config
        assert by_scale.stages["more"] == by_hand.stages["more"]
