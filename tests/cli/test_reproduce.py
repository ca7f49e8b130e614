"""`reproduce`: all tables as one campaign, from results that are on disk already."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs.disk import write_results
from vlm_ablate.cli.app import app
from vlm_ablate.cli.reproduce_set import load_set, unlike_arms
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.home import Home
from vlm_ablate.launch.together import account, seed_by_seed
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec, specs_of
from vlm_ablate.tracking.record_file import load_records
from vlm_ablate.tracking.store import connect

DEPTH = """\
name: idefics2/{name}
title: Depth of the resampler
paper: {{key: idefics2_t12}}
seeds: [0, 1]
model:
  vision: {{name: siglip-nano}}
  language: {{name: llama-nano, quality: good}}
  connector: {{name: perceiver, latents: 8, depth: 3}}
  architecture: autoregressive
data:
  mixture:
    offline: {{source: {{name: offline}}}}
stages:
  pretrain: {{steps: {steps}, batch_size: 4}}
evaluation:
  benchmarks:
    vqa: {{benchmark: offline_vqa, limit: 20}}
arms:
  one: {{cell: {{perceiver_layers: 1}}, set: {{model.connector.depth: 1}}}}
  three: {{cell: {{perceiver_layers: 3}}}}
  {more}
table:
  claims:
    - {{text: Three layers are better than one., order: [three, one]}}
"""
SCALE = "name: tiny\nsummary: for tests\n"
TWELVE = "twelve: {cell: {perceiver_layers: 12}, set: {model.connector.depth: 12}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tables that share two arms, another with an arm of one of their names, and one of no paper."""
    where = tmp_path / "experiments"
    for place in ("idefics2", "scales", "mine"):
        (where / place).mkdir(parents=True)
    (where / "scales/tiny.yaml").write_text(SCALE)
    (where / "idefics2/first.yaml").write_text(DEPTH.format(name="first", steps=10, more=TWELVE))
    (where / "idefics2/second.yaml").write_text(DEPTH.format(name="second", steps=10, more=""))
    (where / "idefics2/third.yaml").write_text(DEPTH.format(name="third", steps=20, more=""))
    own = DEPTH.format(name="own", steps=10, more="")
    (where / "mine/own.yaml").write_text(own.replace("idefics2/own", "mine/own"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str) -> str:
    result = CliRunner().invoke(app, ["reproduce", "--scale", "tiny", "--papers", "idefics2", "--home", "home", *words])
    assert result.exit_code == 0, result.output
    return result.output


def tables(*names: str) -> list:
    return [specs_of(load_experiment(f"idefics2/{name}", scale="tiny")) for name in names]


def fill(home: Home, *names: str, but: str = "") -> None:
    for specs in tables(*names):
        for spec in specs:
            if spec.arm != but:
                level = {"one": 40.0, "three": 52.0, "twelve": 46.0}[spec.arm]
                score = level + spec.seed + (0.3 + 0.02 * spec.seed) * len(spec.arm)
                write_results(spec, home, score=score, seconds=4.0)


def test_one_seed_of_every_table_comes_before_the_next(folder: Path) -> None:
    order = [(s.seed, s.experiment) for s in seed_by_seed(tables("first", "third"))]
    assert (
        order
        == [(0, "idefics2/first")] * 3
        + [(0, "idefics2/third")] * 2
        + [(1, "idefics2/first")] * 3
        + [(1, "idefics2/third")] * 2
    )
    assert seed_by_seed([]) == []


def test_what_is_shipped_and_regenerated_makes_claims_or_is_a_table_or_figure_by_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "experiments/README.md").read_text()
    told = re.findall(r"^\| \[\w+\]\((\S+)\.yaml\) \| [^|]*(?:Table|Figure)", readme, re.MULTILINE)
    found = [each.experiment for each in load_set("idefics2,idefics3,questions", None, "laptop")]
    assert {each.name for each in found if not each.table.claims} <= {*told}


def test_what_two_tables_need_is_counted_once(folder: Path) -> None:
    home = Home.at("home")
    found = account([find_results(spec, home) for specs in tables("first", "second", "third") for spec in specs])
    assert (found.asked.runs, found.shared.runs, found.left.runs) == (14, 10, 10)
    assert (found.asked.steps, found.shared.steps) == (10 * 10 + 4 * 20, 6 * 10 + 4 * 20)
    assert found.shared.items == 10 * 2 * 20, "with images and blind"
    fill(home, "first")
    found = account([find_results(spec, home) for specs in tables("first", "second", "third") for spec in specs])
    assert (found.left.runs, found.left.steps) == (4, 80)
    assert found.left.seconds == pytest.approx(80 * 0.4 + 4 * 2 * 20 * 0.025), "4 s for 10 steps, as was measured here"


def test_the_plan_says_what_is_saved_and_begins_nothing(folder: Path) -> None:
    said = command("--plan")
    assert "idefics2/first" in said and "mine/own" not in said
    assert "asked for    14 trainings, 180 steps" in said
    assert "shared       4 trainings, 40 steps" in said
    assert "one of idefics2/first and idefics2/third: stages.pretrain.steps 10 and 20." in " ".join(said.split())
    assert not (folder / "home").exists()


def test_finished_it_writes_all_tables_and_the_page_over_all_at_once(folder: Path) -> None:
    home = Home.at("home")
    fill(home, "first", "third")
    command()  # the second table has all it needs: nothing is trained
    start = time.process_time()
    said = command()
    assert "left         nothing" in said and "14 finished" in said
    assert time.process_time() - start < 20
    for name in ("first", "second", "third"):
        assert (folder / f"home/tables/idefics2/{name}/tiny/table.png").is_file()
    page = (folder / "home/tables/all-tiny.md").read_text()
    assert "Idefics2, Table 12, appendix" in page and page.count("Three layers are better than one.") == 3
    assert "Over 1 table, 0 of 3 pairs of arms stand in the paper's order" in page, "rows of two tables count once"
    assert "One name, two settings" in page
    assert "<table" in (folder / "home/tables/all-tiny.html").read_text()


def test_arms_of_one_name_that_are_called_otherwise_in_their_tables_are_no_two_settings_of_one(folder: Path) -> None:
    def told() -> list[str]:
        return [text for _, text in unlike_arms([load_experiment(f"idefics2/{n}", scale="tiny") for n in names])]

    names = ("first", "third")
    assert len(told()) == 2
    file = folder / "experiments/idefics2/third.yaml"
    file.write_text(file.read_text().replace("three: {cell", "three: {label: Three for longer, cell"))
    assert [text.split()[0] for text in told()] == ["one"]


def test_pictures_that_are_there_are_not_drawn_again(folder: Path) -> None:
    home = Home.at("home")
    fill(home, "first")
    command("--experiments", "idefics2/first", "--out", "results")
    picture = folder / "results/idefics2/first/tiny/table.png"
    before = picture.stat().st_mtime_ns
    command("--experiments", "idefics2/fir*", "--out", "results")
    assert picture.stat().st_mtime_ns == before
    (folder / "results/idefics2/first/tiny/table.md").write_text("other numbers")
    command("--experiments", "idefics2/first", "--out", "results")
    assert picture.stat().st_mtime_ns > before


def test_what_is_recorded_elsewhere_is_not_computed_again_and_stands_in_the_tables(folder: Path) -> None:
    fill(Home.at("home"), "first")
    command("--experiments", "idefics2/first", "--out", "results")
    place = folder / "results/idefics2/first/tiny"
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    new = [spec for spec in specs_of(load_experiment("idefics2/first", scale="tiny"), seeds=[2])]
    for spec in [*new, tables("first")[0][0]]:
        write_results(spec, Home.at("elsewhere"), score=45.0, seconds=4.0)
    words = ("--experiments", "idefics2/first", "--out", "results", "--records", "results")
    said = command(*words, "--home", "nowhere")
    assert "left         nothing" in said and "6 recorded" in said
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    refused = CliRunner().invoke(app, ["reproduce", "--scale", "tiny", *words, "--home", "nowhere", "--seeds", "0,2"])
    assert refused.exit_code == 2 and "would lose its records of seed 1" in " ".join(refused.output.split())
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    said = command(*words, "--home", "elsewhere", "--seeds", "0-2")
    assert "left         nothing" in said and "3 finished, 6 recorded" in said
    assert "mean over 3 seeds" in (place / "table.md").read_text()
    records = load_records(place / "records.json").records
    assert sorted(record.seed for record in records) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all((r.metrics["score/mean"] == 45.0) == (r.seed == 2) for r in records), "what is recorded stays as it is"


def test_what_another_table_has_recorded_is_taken_too(folder: Path) -> None:
    fill(Home.at("home"), "first")
    command("--experiments", "idefics2/first", "--out", "results")
    words = ("--experiments", "idefics2/second", "--out", "results", "--records", "results", "--home", "nowhere")
    assert "left         nothing" in (said := command(*words)) and "4 recorded" in said
    place = folder / "results/idefics2"
    first, second = (load_records(place / name / "tiny/records.json") for name in ("first", "second"))
    theirs = {(r.arm, r.seed): r for r in first.records}
    assert {(r.arm, r.seed) for r in second.records} == {("one", 0), ("one", 1), ("three", 0), ("three", 1)}
    for record in second.records:
        other = theirs[record.arm, record.seed]
        assert (record.experiment, record.scores, record.metrics) == ("idefics2/second", other.scores, other.metrics)
        assert record.id != other.id and second.histories[record.run_id] == first.histories[other.run_id]
    words = ("--experiments", "idefics2/third", "--out", "results", "--records", "results", "--home", "nowhere")
    result = CliRunner().invoke(app, ["reproduce", "--scale", "tiny", "--plan", *words])
    assert result.exit_code == 1 and "there are no records of idefics2/third" in result.output, "other stages"


@pytest.mark.parametrize("file", ["log.jsonl", "outcome.json"])
def test_a_run_with_a_damaged_file_is_left_out_of_its_table_and_named(folder: Path, file: str) -> None:
    home = Home.at("home")
    fill(home, "first")
    spec = tables("first")[0][0]
    damaged = find_results(spec, home).stages[-1].root / file
    damaged.write_bytes(b"\xff" + damaged.read_bytes())
    result = CliRunner().invoke(app, ["table", "idefics2/first", "--scale", "tiny", "--home", "home", "-f", "markdown"])
    assert result.exit_code == 0, result.output
    told = "".join(result.stderr.split())
    assert f"warning:{''.join(spec.run_name.split())}isleftout:" in told and file in told
    assert f"{spec.label}:** 1 seed scored, 1 not run." in result.stdout
    assert "mean over 1 to 2 seeds" in result.stdout


def test_a_folder_without_records_is_named_before_anything(folder: Path) -> None:
    words = ["reproduce", "--scale", "tiny", "--papers", "idefics2", "--home", "home", "--records", "resluts"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "--records resluts: there are no records of idefics2/" in result.output
    assert not (folder / "home").exists()


def test_runs_that_are_missing_or_diverged_are_shown(folder: Path) -> None:
    home = Home.at("home")
    fill(home, "first", but="one")
    for spec in tables("first")[0]:
        if spec.arm == "one":
            write_results(spec, home, status="diverged", message="the loss is not finite")
    said = command("--experiments", "idefics2/first")
    assert "4 finished" in said and "2 diverged" in said
    page = (folder / "home/tables/all-tiny.md").read_text()
    assert "(diverged)" in page and "2 of 3" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--experiments", "idefics2/frist"], "did you mean 'idefics2/first'"),
        (["--papers", "idefics4"], "unknown paper"),
        (["--seeds", "x"], "--seeds"),
        (["--launcher", "locl"], "local"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything(folder: Path, words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["reproduce", "--scale", "tiny", "--home", "home", *words])
    assert result.exit_code in (1, 2) and told in result.output, result.output
    assert not (folder / "home").exists()


def test_all_problems_of_all_files_are_told_at_once(folder: Path) -> None:
    for name in ("first", "third"):
        file = folder / f"experiments/idefics2/{name}.yaml"
        file.write_text(file.read_text().replace("depth: 3", "depht: 3"))
    result = CliRunner().invoke(app, ["reproduce", "--scale", "tiny", "--papers", "idefics2", "--plan"])
    assert result.exit_code == 2 and "first.yaml" in result.output and "third.yaml" in result.output


def test_what_a_command_computed_and_put_on_the_store_stands_beside_what_is_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(Home.at("home"), "first")
    command("--experiments", "idefics2/first", "--out", "results")
    home = Home.at("elsewhere").prepare()

    def run(_: object, specs: list[RunSpec], *others: object) -> list[RunOutcome]:
        made = {s.id: write_results(s, home, score=45.0) for s in specs}
        return [outcome_of(made[s.id]) for s in specs]

    monkeypatch.setattr("vlm_ablate.cli.reproduce._run", run)
    words = ("--experiments", "idefics2/first", "--records", "results", "--home", "elsewhere", "--seeds", "0-2")
    command(*words)
    place = folder / "elsewhere/tables/idefics2/first/tiny"
    assert "mean over 3 seeds" in (place / "table.md").read_text()
    client = connect(home.tracking_uri)
    (table,) = client.search_runs([client.get_experiment_by_name("idefics2/first").experiment_id])
    assert "mean over 3 seeds" in table.data.tags["mlflow.note.content"]
