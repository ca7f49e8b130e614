"""A longer stage at a constant rate goes on from a shorter one and gives what it would have given by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from training.squares import STAGE, make_spec

from vlm_ablate.events import Event, Notice
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import StageFolder, find_stage
from vlm_ablate.runs.keys import curve_keys
from vlm_ablate.runs.log import read_log
from vlm_ablate.runs.longer import continue_shorter
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema

CURVE = {"curve": {"points": 2, "limit": 4}}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, parts: Path, store_template: Path) -> Home:
    """A home with six steps, the last of which is tracked only because it is the last."""
    home = Home(tmp_path_factory.mktemp("short")).prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    assert execute(run_of(parts, 6), home=home).status == "finished"
    return home


@pytest.fixture
def home(short: Home, tmp_path: Path) -> Home:
    """A copy of it."""
    shutil.copytree(short.root, tmp_path / "home")
    return Home(tmp_path / "home").prepare(minimum_free=0)


@pytest.fixture
def steps() -> Iterator[list[int]]:
    """One entry for each optimiser step that is taken."""
    taken: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    yield taken
    handle.remove()


def run_of(parts: Path, steps: int, *, execution: dict[str, Any] | None = None, **stage: Any) -> RunSpec:
    """One stage with dropout, noise and moments."""
    lora = {"language": "lora", "lora": {"r": 2, "dropout": 0.1}, "neftune_alpha": 5.0, "warmup_steps": 3}
    stages = {"tune": STAGE | lora | {"steps": steps} | stage}
    return make_spec(parts, stages=stages, blind=False, execution={"log_every": 4} | (execution or {}), **CURVE)


def stage_of(spec: RunSpec, home: Home) -> StageFolder:
    return find_results(spec, home).stages[-1]


def logged(stage: StageFolder) -> list[tuple[int, dict[str, float]]]:
    """Everything but how fast it went."""
    by_clock = {schema.TRAIN_TOKENS_PER_S, schema.WAITING}
    told = [(e.step, {k: v for k, v in e.values.items() if k not in by_clock}) for e in read_log(stage.log)]
    return sorted(told, key=lambda entry: (entry[0], sorted(entry[1])))


def test_a_longer_run_continues_the_shorter_one_to_the_bit(
    parts: Path, home: Home, tmp_path: Path, store_template: Path, steps: list[int]
) -> None:
    longer, alone = run_of(parts, 12), Home(tmp_path / "alone").prepare(minimum_free=0)
    shutil.copyfile(store_template, alone.database)
    continued = execute(longer, home=home)
    assert continued.status == "finished" and len(steps) == 6
    undisturbed = execute(longer, home=alone)
    assert undisturbed.scores == continued.scores and len(steps) == 6 + 12
    one, other = stage_of(longer, home), stage_of(longer, alone)
    weights = [load_file(stage.weights) for stage in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert logged(one) == logged(other)
    assert {file.name for file in one.curve.iterdir()} == {file.name for file in other.curve.iterdir()}
    (ended, same) = ((stage.outcome() or {}) for stage in (one, other))
    assert ended["seen"] == same["seen"]
    assert ended["continued"] == {"stage": stage_of(run_of(parts, 6), home).root.name, "steps": 6}
    assert [p.name.split("-")[1] for p in one.root.glob("checkpoint-*")] == ["12"]


def test_what_was_taken_over_and_then_lost_is_not_called_continued(
    parts: Path, home: Home, tmp_path: Path, steps: list[int]
) -> None:
    longer = run_of(parts, 12)

    def die(event: Event) -> None:
        if isinstance(event, Notice) and "goes on after" in event.message:
            raise RuntimeError

    assert execute(longer, home=home, reporter=die).status == "failed"
    begun = next(file for file in home.stages.glob("*/checkpoint-6-*") if not (file.parent / "outcome.json").exists())
    begun.unlink()
    begun.write_bytes(b"damaged")
    stage_of(run_of(parts, 6), home).root.rename(tmp_path / "moved")
    assert execute(longer, home=home).status == "finished" and len(steps) == 12
    assert "continued" not in (stage_of(longer, home).outcome() or {})
    assert "continued" not in (stage_of(longer, home).manifest() or {})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"schedule": "linear"}, "its rate depends on its end"),
        ({"learning_rate": 5e-3}, "another stage"),
        ({"execution": {"continuable": False}}, "it was asked for"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_others_start_at_their_beginning(
    fields: dict[str, Any], why: str, parts: Path, home: Home, steps: list[int]
) -> None:
    spec = run_of(parts, 8, **fields)
    assert execute(spec, home=home).status == "finished"
    assert len(steps) == 8, why
    kept = list(stage_of(spec, home).root.glob("checkpoint-*"))
    assert len(kept) == (1 if fields == {"learning_rate": 5e-3} else 0)


def test_a_curve_that_the_shorter_one_has_not_is_measured_anew_and_that_is_told(
    parts: Path, home: Home, steps: list[int]
) -> None:
    events: list[Any] = []
    assert execute(run_of(parts, 10), home=home, reporter=events.append).status == "finished"
    assert len(steps) == 10
    assert any("no curve point at step 5" in getattr(event, "message", "") for event in events)


def test_points_of_the_curve_that_were_asked_otherwise_are_not_taken_over(parts: Path, home: Home) -> None:
    longer, told = run_of(parts, 12), []
    key = longer.stage_keys[0]
    folder = find_stage(home, key.key, key.fingerprints(home), None)
    own = {schema.curve_metric(column): asked for column, asked in curve_keys(longer.config).items()}
    otherwise = dict.fromkeys(own, "0" * 12)
    assert continue_shorter(longer, 0, folder, None, home, otherwise, told.append) is None
    assert len(told) == 1 and "no curve point at step 6" in told[0]
    assert continue_shorter(longer, 0, folder, None, home, own, told.append) is not None
    assert [entry.asked for entry in read_log(folder.log) if entry.values.keys() >= own.keys()] == [own]
