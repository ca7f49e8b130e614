"""`import vlm_ablate as va`: load, plan, run and table in a few lines, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vlm_ablate as va
from tests.cli.test_reproduce import fill, folder  # noqa: F401 - the fixture
from vlm_ablate.errors import ConfigError, DataError, TrackingError, UnknownNameError
from vlm_ablate.home import Home


def test_the_import_alone_imports_nothing_else() -> None:
    code = "import sys, vlm_ablate; print(*(m for m in sys.modules if m.startswith(('vlm_ablate', 'pydantic'))))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["vlm_ablate"]


def test_plan_has_a_row_for_each_arm_and_reads_no_weights(folder: Path) -> None:  # noqa: F811
    plan = va.load("idefics2/second", scale="tiny").plan()
    assert list(plan.index) == ["one", "three"] and (plan.visual_tokens_per_image == 8).all()
    assert plan.total_parameters["one"] < plan.total_parameters["three"]


def test_no_arms_are_none_and_not_all(folder: Path) -> None:  # noqa: F811
    assert va.load("idefics2/second", scale="tiny", arms=[]).specs() == []
    assert {spec.arm for spec in va.load("idefics2/second", scale="tiny", arms=["one"]).specs()} == {"one"}


def test_arms_that_are_called_alike_are_rows_of_their_own(folder: Path) -> None:  # noqa: F811
    file = folder / "experiments/idefics2/second.yaml"
    file.write_text(file.read_text().replace("{cell", "{label: Depth, cell"))
    fill(Home(folder / "home"), "second")
    study = va.load("idefics2/second", scale="tiny", home=folder / "home")
    assert list(study.table().index) == list(study.plan().index) == ["Depth", "Depth"]
    assert len(set(study.table().score)) == len(set(study.plan().total_parameters)) == 2


def test_run_does_nothing_twice_and_the_table_has_both_numbers(folder: Path) -> None:  # noqa: F811
    fill(Home(folder / "home").prepare(minimum_free=0), "second")
    study = va.load("idefics2/second", scale="tiny", home=folder / "home")
    assert all(outcome.reused for outcome in study.run())
    table, claims = study.table(), study.claims()
    assert list(table.index) == ["one", "three"] and (table.seeds == 2).all() and (table.status == "finished").all()
    assert table.score["three"] - table.score["one"] == pytest.approx(claims.ours[0])
    assert table.paper.notna().all() and list(claims.verdict) == ["agrees"]
    assert (study.table(seeds=[1]).seeds == 1).all()


def test_material_is_looked_for_in_the_home_that_was_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    before, seen = Home.default(), []

    def look_over(missing: object) -> None:
        seen.append(Home.default().root)
        raise DataError("none is there")

    monkeypatch.setattr("vlm_ablate.evaluation.material.look_over", look_over)
    with pytest.raises(DataError, match="none is there"):
        va.load("idefics2/second", scale="tiny", home=folder / "told").run()
    assert seen == [folder / "told"] and Home.default() == before != Home(folder / "told")


def test_what_is_wrong_is_told_as_the_command_line_tells_it(folder: Path) -> None:  # noqa: F811
    with pytest.raises(UnknownNameError, match="experiment file"):
        va.load("idefics2/none")
    with pytest.raises(ConfigError, match="latent"):
        va.load("idefics2/first", scale="tiny", sets=["model.connector.latent=3"])
    with pytest.raises(TrackingError, match="nothing was run"):
        va.load("idefics2/first", scale="tiny", home=folder / "empty").table()
