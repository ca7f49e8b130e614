"""What a reader is told of a run at a scale is what was done to it: all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.config.compose import flatten
from vlm_ablate.config.expand import LoadedExperiment, experiment_files, load_experiment
from vlm_ablate.config.loading import ResolvedArm
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.scale import Scale
from vlm_ablate.config.scales import PAPER, apply_scale
from vlm_ablate.config.shared_data import short
from vlm_ablate.config.yaml_reader import parse

from .conftest import SCALE

Write = Callable[..., Path]
ROOT = Path(__file__).parents[2] / "experiments"
FILES = experiment_files(ROOT)
WHOLE = {"mixture": "source", "benchmarks": "benchmark"}
"""What is exchanged as a whole -> where its parts stand."""


def at(config: RunConfig, path: str) -> Any:
    """The value at a dotted path as readers see it: `data` is every stage's."""
    keys = path.split(".")
    value: Any = config.last_stage if keys[0] == "data" else config
    for key in keys:
        value = value[key] if isinstance(value, Mapping) else getattr(value, key)
    return list(value) if isinstance(value, tuple) else value


def are_named(names: str, config: RunConfig, path: str) -> bool:
    """Whether names are those of the parts at a path, each by its id or by that of the registry."""
    found, key = at(config, path), WHOLE.get(path.rpartition(".")[2])
    parts = [getattr(entry, key) for entry in found.values()] if key else [found]
    known = [{str(getattr(part, field, "")) for field in ("id", "path_or_id", "name")} for part in parts]
    named = names.split(" + ")
    return all(any(name in ids for ids in known) for name in named) and all(ids & {*named} for ids in known)


def check(arm: ResolvedArm, *, by_hand: bool = False) -> None:
    """Every note is of something that is there, and names it as it was and as it is; every plain value that differs
    and decides a result is told, but for what is set by hand."""
    paper, ours = arm.paper_config, arm.config
    for path, note in arm.stand_ins.items():
        before, _, after = note.partition(" -> ")
        assert are_named(after.split(" (")[0].split(", ")[0], ours, path), path
        assert are_named(before, paper, path), path
    for path, note in arm.scaled.items():
        if "climb" not in path:
            before, _, after = note.partition(" -> ")
            assert parse(after, path)[0] == at(ours, path), path
    was, now = (flatten(short(config)) for config in (paper, ours))
    told = tuple((*arm.scaled, *arm.stand_ins))
    untold = [
        dotted
        for path, value in was.items()
        if path in now and value != now[path] and path[0] != "execution"
        for dotted in [".".join(path)]
        if not dotted.startswith(told) and "image" not in path
    ]
    assert untold == [] or by_hand


@cache
def loaded(file: Path, scale: str) -> LoadedExperiment:
    return load_experiment(file, scale=scale)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_notes_of_shipped_experiments_are_true_and_all_there_are(file: Path) -> None:
    for arm in loaded(file, ("laptop", "workstation")[FILES.index(file) % 2]).arms.values():
        check(arm)


@pytest.mark.parametrize("file", FILES[::4], ids=lambda f: f.stem)
def test_the_papers_scale_changes_nothing_and_tells_nothing(file: Path) -> None:
    for arm in loaded(file, PAPER).arms.values():
        assert arm.config == arm.paper_config and not arm.stand_ins and not arm.scaled
        plain = arm.config.model_dump(mode="json")
        assert apply_scale(plain, Scale(name=PAPER)).config == plain


MORE = (
    ("    vqav2: {benchmark: vqav2}", "    vqav2: {benchmark: vqav2}\n    okvqa: {benchmark: okvqa}"),
    ("  pretrain: {", "  sft: {steps: 6000, batch_size: 8}\n  pretrain: {"),
    ("    web: {", "    pages: {source: cauldron}\n    web: {"),
)
MIXTURE = "  data: {mixture: {replace: true, offline: {source: offline}}}\n"
ONE_BY_ONE = SCALE.replace(MIXTURE, "") + "sources:\n  laion/laion-coco: {use: {name: offline, rows: 9}}\n"
"""As the tiny scale, but its mixture is not exchanged as a whole."""


@pytest.mark.parametrize("scale", [SCALE, ONE_BY_ONE], ids=["whole", "one by one"])
@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["evaluation.benchmarks.vqav2=null"],
        ["evaluation.benchmarks.vqav2.benchmark=chartqa"],
        ["evaluation.benchmarks={replace: true, mine: {benchmark: okvqa}}"],
        ["stages.sft=null"],
        ["stages={replace: true, only: {steps: 4, batch_size: 4}}"],
        ["data.mixture={replace: true, mine: {source: cauldron}}"],
        ["stages.sft.data.mixture={replace: true, mine: {source: cauldron}}"],
        ["data.mixture.mine.source=cauldron"],
        ["model.vision={name: hf, id: openai/clip}"],
        ["model.vision=siglip-nano", "model.language={name: hf, id: a/b}"],
        ["stages.*.steps=6000", "stages.pretrain.batch_size=16"],
        ["stages.pretrain.gradient_clip=null", "model.connector.latents=8"],
    ],
    ids=lambda sets: "; ".join(sets),
)
def test_notes_are_true_of_what_is_set_by_hand(write: Write, sets: list[str], scale: str) -> None:
    for arm in load_experiment(write(*MORE, scale=scale), scale="tiny", sets=sets).arms.values():
        check(arm, by_hand=True)


@pytest.mark.parametrize(
    "changed",
    [
        "evaluation: {benchmarks: {vqav2: null}}",
        "evaluation: {benchmarks: {vqav2: {benchmark: chartqa}}}",
        "model: {vision: {replace: true, name: hf, id: openai/clip}}",
        "stages: {'*': {batch_size: 4}, sft: null}",
        "data: {mixture: {replace: true, mine: {source: cauldron}}}",
        "data: {mixture: {web: {source: cauldron}}}",
    ],
)
def test_notes_are_true_of_what_overrides_do_to_parts_that_have_a_stand_in(write: Write, changed: str) -> None:
    scale = ONE_BY_ONE.replace('  stages: {"*": {batch_size: 4}}\n', f"  {changed}\n")
    assert changed in scale
    for arm in load_experiment(write(*MORE, scale=scale), scale="tiny").arms.values():
        check(arm)


def test_a_part_without_a_stand_in_is_no_warning_where_something_else_stands_there(write: Write) -> None:
    lacking = ("google/siglip-so400m-patch14-384", "openai/clip")
    assert "openai/clip; it is used as written" in load_experiment(write(lacking), scale="tiny").warnings[0]
    sets = ["model.vision=siglip-nano"]
    assert load_experiment(write(lacking), scale="tiny", sets=sets).warnings == []
    scale = SCALE.replace("overrides:\n", "overrides:\n  model: {vision: {replace: true, name: siglip-nano}}\n")
    assert load_experiment(write(lacking, scale=scale), scale="tiny").warnings == []
