"""What is told of a run, by whomever, is what lies on the disk, wherever it is: no more where something is missing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.runs.disk import score_record, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.runs.keys import ScoreKey
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.outcome import note_attempt, outcome_of
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import record_of, view_of
from vlm_ablate.tracking import schema

COLUMNS = ("vqa", "ocr", "docs")


def three_columns(ceiling: bool = True) -> RunSpec:
    """A run of two stages that is asked in three ways."""
    stage = {"steps": 5, "batch_size": 4}
    body = make_spec(stages={"one": stage, "two": stage}).to_dict()
    body["config"]["evaluation"] = {
        "benchmarks": {name: {"benchmark": "stub-benchmark", "shots": i} for i, name in enumerate(COLUMNS)},
        "ceiling": ceiling,
    }
    return RunSpec.from_dict(body)


@pytest.fixture(params=range(2))
def told(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RunSpec, Home, dict[tuple[str, str], float]]:
    """A finished run, its home, and (column, mode) -> its score."""
    rng, spec, home = random.Random(request.param), three_columns(), Home(tmp_path / "home").prepare(0)
    scores = {(key.column, key.mode): round(rng.uniform(0, 100), 4) for key in spec.score_keys}

    def record(key: ScoreKey, _: float) -> dict[str, Any]:
        found = score_record(key, scores[key.column, key.mode])
        items = [rng.random() if key.mode == "seen" else 0.5 for _ in range(4)]
        return found | {"item_scores": items, "seconds": 2.0, "cpu_seconds": 3.0}

    write_results(spec, home, record=record, seconds=10.0)
    return spec, home, scores


def test_outcome_record_and_view_tell_the_same_scores_and_means(
    told: tuple[RunSpec, Home, dict[tuple[str, str], float]],
) -> None:
    spec, home, scores = told
    results = find_results(spec, home)
    outcome, record, view = outcome_of(results), record_of(results), view_of(results)
    of = {mode: {name: scores[name, mode] for name in COLUMNS} for mode in ("seen", "blind", "described")}
    assert (outcome.scores, outcome.blind, outcome.status) == (of["seen"], of["blind"], schema.FINISHED)
    assert outcome.mean == pytest.approx(fmean(of["seen"].values()))
    for blind, mode in ((False, "seen"), (True, "blind")):
        for name in COLUMNS:
            assert record.metrics[schema.score_metric(name, blind=blind)] == scores[name, mode]
        assert record.metrics[schema.score_metric(schema.MEAN, blind=blind)] == pytest.approx(fmean(of[mode].values()))
    for name in COLUMNS:
        assert record.metrics[schema.ceiling_metric(name)] == scores[name, "described"]
    assert {(r["column"], r["blind"]): r["score"] for r in record.scores} == {
        (name, mode == "blind"): scores[name, mode] for name in COLUMNS for mode in ("seen", "blind")}  # fmt: skip
    assert record.items.keys() == {*COLUMNS}, "of those with images alone"
    assert record.metrics[schema.WALL_SECONDS] == 10.0 + 2.0 * len(scores)
    assert schema.CPU_SECONDS not in record.metrics, "the scores tell it, the stage does not"
    last = {key: value for key, value, _, step in view.points if step == 10}
    assert {key: last[key] for key in record.metrics if key in last} == {
        k: v for k, v in record.metrics.items() if k in last
    }
    assert {schema.score_metric(name) for name in COLUMNS} <= last.keys()


def test_without_any_one_of_its_files_a_run_is_not_finished_and_tells_no_score(
    told: tuple[RunSpec, Home, dict[tuple[str, str], float]],
) -> None:
    spec, home, scores = told
    files = [*home.stages.rglob("score.json"), *home.stages.rglob("outcome.json")]
    assert len(files) == len(scores) + 2
    for file in files:
        aside = file.rename(file.with_suffix(".aside"))
        results = find_results(spec, home)
        outcome, record = outcome_of(results), record_of(results)
        assert (results.done, outcome.status, outcome.scores, outcome.mean) == (False, schema.RUNNING, {}, None)
        assert (record.status, record.scores, record.items, record.end_time) == (schema.RUNNING, [], {}, None)
        assert not [name for name in record.metrics if name.startswith(("score", "blind", "ceiling"))]
        assert len(results.stages) == (1 if file.parent.name == spec.stage_keys[0].key else 2)
        aside.rename(file)
    assert find_results(spec, home).done


@pytest.mark.parametrize("status", ["failed", "skipped", "stopped", "running", "finished", "diverged"])
def test_how_the_last_attempt_ended_is_told_only_of_a_run_that_is_not_done(
    told: tuple[RunSpec, Home, dict[tuple[str, str], float]], status: str
) -> None:
    spec, home, _ = told
    note_attempt(spec, home, status, "why")
    done = find_results(spec, home)
    assert (done.status, done.message) == (schema.FINISHED, "")
    next(home.stages.rglob("score.json")).unlink()
    found = find_results(spec, home)
    wanted = status if status in ("failed", "skipped", "stopped") else schema.RUNNING
    assert found.status == wanted and (wanted == schema.RUNNING or found.message == "why")


def test_a_run_that_asks_for_less_is_done_and_one_that_asks_for_more_is_not(
    told: tuple[RunSpec, Home, dict[tuple[str, str], float]],
) -> None:
    _, home, scores = told
    less = find_results(three_columns(ceiling=False), home)
    assert less.done and not any(record.get("described") for record in less.score_records())
    assert outcome_of(less).scores == {name: scores[name, "seen"] for name in COLUMNS}
    stage = {"steps": 5, "batch_size": 4}
    first = find_results(make_spec(stages={"one": stage}), home)
    assert not first.done and len(first.outcomes) == 1, "the first of two stages alone, which was never asked"


def test_a_home_may_be_moved_copied_and_linked_to(
    told: tuple[RunSpec, Home, dict[tuple[str, str], float]], tmp_path: Path
) -> None:
    spec, home, _ = told
    before = record_of(find_results(spec, home))
    shutil.copytree(home.root, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    shutil.move(home.root, tmp_path / "moved")
    for place in ("copy", "link", "moved"):
        other = Home(tmp_path / place)
        with looking_once():
            again = [record_of(find_results(spec, other)) for _ in range(2)]
        for record in again:
            assert record.metrics == before.metrics and record.tags == before.tags and record.scores == before.scores
    assert not find_results(spec, home).done, "and where it was there is nothing"


def test_of_files_that_are_gone_the_results_of_the_last_ones_count(tmp_path: Path) -> None:
    home, data, asked = Home(tmp_path / "home").prepare(0), tmp_path / "data", tmp_path / "asked"
    body = make_spec().to_dict()
    source = {"name": "pairs", "id": str(data)}
    body["config"]["stages"]["train"]["data"]["mixture"] = {"pairs": {"source": source}}
    body["config"]["evaluation"]["benchmarks"] = {"vqa": {"benchmark": {"name": "vqav2", "id": str(asked)}}}
    spec = RunSpec.from_dict(body)
    for number, (trained_on, asked_of) in enumerate((("old", "old"), ("new", "old"), ("new", "new"))):
        for folder, text in ((data, trained_on), (asked, asked_of)):
            folder.mkdir(exist_ok=True)
            (folder / "train.jsonl").write_text(text)
        write_results(spec, home, score=50.0 + number)
    key = spec.stage_keys[0].key
    (home.stages / f"{key}.3").mkdir()  # whoever began it got no further
    for moved in (None, data, asked):
        if moved is not None:
            shutil.move(moved, tmp_path / f"{moved.name}, gone")
        found = find_results(spec, home)
        assert (found.status, found.stages[0].root.name) == (schema.FINISHED, f"{key}.2")
        assert outcome_of(found).scores == {"vqa": 52.0}
