"""`report`: pages from a home and from records files, and what it says where something is not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.test_reproduce import fill, folder  # noqa: F401 - the fixture
from tests.runs.disk import write_log, write_results
from vlm_ablate.cli.app import app
from vlm_ablate.cli.records import recorded
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.home import Home
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.publishing import publish_run
from vlm_ablate.runs.spec import specs_of


@pytest.fixture
def reported(folder: Path) -> Path:  # noqa: F811
    """A folder with a home in which one table was run."""
    fill(Home(folder / "home"), "first")
    return folder


def command(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["report", "--home", "home", *words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_home_s_tables_have_pages_and_the_others_a_command(reported: Path) -> None:
    command("--out", "out")
    index = (reported / "out/index.html").read_text()
    # The second table has the same runs, and they were asked for by the first only.
    assert 'href="idefics2-first-tiny.html"' in index and "vlm-ablate run idefics2/second" in index
    page = (reported / "out/idefics2-first-tiny.html").read_text()
    assert "Three layers are better than one." in page and "<b>agrees</b>" in page
    assert "vlm-ablate run idefics2/first --scale tiny" in page


def test_records_files_are_read_where_the_home_has_nothing(reported: Path) -> None:
    run = CliRunner().invoke(
        app, ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "--out", "results/x"]
    )
    assert run.exit_code == 0, run.output
    shutil.rmtree(reported / "home")
    command("--out", "out")
    assert "<b>agrees</b>" in (reported / "out/idefics2-first-tiny.html").read_text()
    (reported / "results/x/records.json").write_text("{")
    assert "cannot be read as a records file" in command("--out", "out")
    assert "Nothing is recorded here yet" in (reported / "out/index.html").read_text()


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_has_not_ended_here_hides_none_that_is_recorded(reported: Path, status: str) -> None:
    words = ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "--out", "results/x"]
    assert CliRunner().invoke(app, words).exit_code == 0
    shutil.rmtree(reported / "home")
    for spec in specs_of(load_experiment("idefics2/first", scale="tiny")):
        write_log(spec, Home(reported / "home"), [(1, {"train/loss": 9.0})])
        note_attempt(spec, Home(reported / "home"), status, "begun anew")
    command("--out", "out")
    page = (reported / "out/idefics2-first-tiny.html").read_text()
    assert "<b>agrees</b>" in page and "begun anew" not in page


def test_a_run_that_has_not_ended_here_hides_none_of_a_store(folder: Path) -> None:  # noqa: F811
    loaded, ours, store = load_experiment("idefics2/first", scale="tiny"), Home(folder / "home"), Home(folder / "other")
    store.prepare()
    spec, *_ = specs_of(loaded)
    publish_run(write_results(spec, store).spec, store, store.tracking_uri, print)
    note_attempt(spec, ours, "failed", "out of memory")
    (found,) = recorded(loaded, ours, store.tracking_uri).records
    assert (found.status, found.metrics["score/mean"]) == ("finished", 50.0)


def test_a_table_whose_file_is_gone_is_named(reported: Path) -> None:
    words = ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "--out", "results/x"]
    assert CliRunner().invoke(app, words).exit_code == 0
    (reported / "experiments/idefics2/first.yaml").rename(reported / "elsewhere.yaml")
    command("--out", "out")  # what is in the home and among the records is one run
    page = (reported / "out/idefics2-first-tiny.html").read_text()
    assert "6 runs at scale tiny are recorded" in page and "vlm-ablate report FILE.yaml" in page
    command("elsewhere.yaml", "--out", "out")
    assert "<b>agrees</b>" in (reported / "out/idefics2-first-tiny.html").read_text()


def test_runs_of_an_earlier_file_are_counted_once_where_the_home_and_the_records_have_them(reported: Path) -> None:
    words = ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "--out", "results/x"]
    assert CliRunner().invoke(app, words).exit_code == 0
    file = reported / "experiments/idefics2/first.yaml"
    file.write_text(file.read_text().replace("steps: 10", "steps: 12"))
    command("--out", "out")
    page = (reported / "out/idefics2-first-tiny.html").read_text()
    assert ">6 runs in another configuration" in page


def test_an_experiment_beside_its_records_is_found_and_shown_with_the_arms_that_these_have(reported: Path) -> None:
    """As the winner of a sweep lies in `results/`, compared with a few arms of the experiment that it stands on."""
    words = ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "--arms", "one,three"]
    run = CliRunner().invoke(app, [*words, "--out", "results/sweeps/mine/table"])
    assert run.exit_code == 0, run.output
    shutil.rmtree(reported / "home")
    (reported / "experiments/idefics2/first.yaml").rename(reported / "results/sweeps/mine/winner.yaml")
    command("--out", "out")
    page = (reported / "out/idefics2-first-tiny.html").read_text()
    assert "<b>agrees</b>" in page and "not run" not in page and "Arms left out" in page
    again = "vlm-ablate run results/sweeps/mine/winner.yaml --scale tiny --arms one,three"
    assert again in page and again.replace(" run ", " table ") in page


def test_evaluated_checkpoints_are_rows_of_their_tables(reported: Path) -> None:
    home = Home(reported / "home")
    spec = specs_of(load_experiment("idefics2/first", scale="tiny"))[0]
    write_results(replace(spec, arm="mine", label="A checkpoint of mine", evaluated=True), home)
    write_results(specs_of(load_experiment("figure5", scale="paper"))[0], home)
    command("--out", "out")
    assert "A checkpoint of mine" in (reported / "out/idefics2-first-tiny.html").read_text()
    page = (reported / "out/evaluate-figure5-paper.html").read_text()
    assert "Idefics3-8B" in page and "vlm-ablate table figure5 --scale paper" in page
    assert "table9" not in (reported / "out/index.html").read_text()


def test_another_folder_is_refused_before_anything_is_read(folder: Path) -> None:  # noqa: F811
    assert "is not empty and holds no report" in " ".join(command("--out", str(folder), code=1).split())


def test_a_folder_of_results_that_is_none_is_told(folder: Path) -> None:  # noqa: F811
    assert "nowhere is no folder" in command("--out", "out", "--results", "nowhere")
    assert "is no folder" not in command("--out", "out")
