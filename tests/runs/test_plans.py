"""Plans that were made before are read again, and only while everything they follow from is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.accounting.planned import run_config
from vlm_ablate.accounting import ModelPlan, SampleShape, Sharding, plan_model
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.home import Home
from vlm_ablate.runs import plans
from vlm_ablate.runs.plans import KeptPlans

SAMPLE = SampleShape(text_tokens=40)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Model section of parts in folders."""
    from training.squares import save_parts

    folder = tmp_path_factory.mktemp("parts")
    save_parts(folder)
    return {
        "vision": {"name": "siglip-native", "id": str(folder / "vision")},
        "language": {"name": "hf", "id": str(folder / "lm")},
        "connector": {"name": "linear"},
        "architecture": "autoregressive",
    }


@pytest.fixture(scope="module")
def made(parts: dict[str, Any]) -> ModelPlan:
    return plan_model(config_of(parts), sample=SAMPLE)


def config_of(parts: dict[str, Any], **stage: Any) -> RunConfig:
    return run_config(parts, {"size": 16}, **stage)


class Made:
    """Stands for the planner; counts how often it is asked."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan, self.count = plan, 0

    def __call__(self, config: RunConfig) -> ModelPlan:
        self.count += 1
        return self.plan


Ask = Callable[..., int]


@pytest.fixture
def ask(tmp_path: Path, parts: dict[str, Any], made: ModelPlan) -> Ask:
    """Ask for a plan; says how often it had to be made."""

    def asked(config: RunConfig | None = None, sample: SampleShape = SAMPLE, shards: int = 1) -> int:
        make = Made(made)
        kept = KeptPlans(sample, shards, Sharding.zero3, Home(tmp_path))
        assert kept.plan(config or config_of(parts), make) == made
        return make.count

    return asked


def test_a_kept_plan_is_the_one_that_was_made(ask: Ask) -> None:
    assert [ask(), ask()] == [1, 0]


def test_another_question_is_planned(ask: Ask, parts: dict[str, Any]) -> None:
    ask()
    assert ask(config_of(parts, language="full")) == 1
    assert ask(sample=SampleShape(text_tokens=41)) == 1
    assert ask(shards=2) == 1
    assert ask() == 0


@pytest.mark.parametrize("part", ["vision", "language"])
def test_changed_files_of_a_part_are_planned(ask: Ask, parts: dict[str, Any], part: str) -> None:
    ask()
    file = Path(parts[part]["id"]) / "config.json"
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {"note": "changed"}))
    try:
        assert ask() == 1
    finally:
        file.write_text(text)


def test_another_version_of_a_library_or_of_this_package_plans(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask()
    monkeypatch.setattr(plans, "_software", lambda: {"torch": "0"})
    assert ask() == 1


def test_a_damaged_plan_is_made_anew(ask: Ask, tmp_path: Path) -> None:
    ask()
    (file,) = (tmp_path / "cache" / "plans").glob("*.json")
    file.write_text(file.read_text().replace('"samples": ', '"samples": 1'))
    assert ask() == 1
    file.write_text("{")
    assert ask() == 1


def test_what_cannot_be_written_is_planned_all_the_same(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder would be")
    assert [ask(), ask()] == [1, 1]


def test_parts_of_plugins_are_always_planned(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "code_fingerprint", lambda *_: "of a stranger")
    assert [ask(), ask()] == [1, 1]
