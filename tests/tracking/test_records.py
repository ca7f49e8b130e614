"""Records read back equal what was written, by either reader and through a file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.specs import make_scores, make_spec
from vlm_ablate.errors import TrackingError
from vlm_ablate.home import Home
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.client_reader import ClientReader
from vlm_ablate.tracking.logger import RunTracker
from vlm_ablate.tracking.record_file import dump_records, load_records
from vlm_ablate.tracking.records import Point, RunRecord, find_done, read_history, read_records
from vlm_ablate.tracking.ui import ui_pages


@pytest.fixture
def recorded(home: Home) -> Home:
    """Two finished runs, one diverged with a NaN, one still going; and one of another experiment."""
    for spec, status in (
        (make_spec("mlp", 0), "finished"),
        (make_spec("mlp", 1), "finished"),
        (make_spec("full", 0), "diverged"),
        (make_spec("other", 0, experiment="demo/t02"), "finished"),
    ):
        with RunTracker.start(spec, home=home) as tracker:
            for step in range(0, 50, 10):
                tracker.log_metrics({schema.TRAIN_LOSS: 3.0 - step / 100, schema.SEEN_IMAGES: step * 4}, step)
            if status == "diverged":
                tracker.log_metrics({schema.TRAIN_LOSS: math.nan}, 50)
            else:
                tracker.log_scores(make_scores(40.0 + spec.seed), 50)
            assert tracker.finish(status, "loss is nan" if status == "diverged" else "")
    RunTracker.start(make_spec("mlp", 2), home=home).close()
    return home


def test_both_readers_give_equal_records(recorded: Home) -> None:
    client = ClientReader(recorded.tracking_uri)
    records = read_records(recorded.tracking_uri, "demo/t01")
    assert len(records) == 4
    assert records == client.runs(experiment="demo/t01")
    hashes = {record.hash for record in records}
    assert find_done(recorded.tracking_uri, hashes) == {
        h: [r] for r in client.runs(hashes=hashes) if r.status in schema.DONE for h in [r.hash]
    }
    keys = [schema.TRAIN_LOSS, schema.SEEN_IMAGES, "never/logged"]
    for record in records:
        assert read_history(recorded.tracking_uri, record.run_id, keys) == client.history(record.run_id, keys)


def test_a_record_tells_what_the_run_said(recorded: Home) -> None:
    first, second, full, going = read_records(recorded.tracking_uri, "demo/t01")
    assert (first.arm, first.seed, first.scale, first.label, first.status) == ("mlp", 0, "laptop", "MLP", "finished")
    assert first.hash == make_spec("mlp", 0).hash
    assert first.name == "mlp · seed 0 · laptop"
    assert first.cell == {"connector": "mlp"}
    assert first.stand_ins == {"model.vision": "SigLIP-SO400M -> siglip-nano (small)"}
    assert first.scaled == {"stages.train.steps": "6000 -> 10"}
    assert first.scores == make_scores(40.0)
    assert second.metrics["score/mean"] == pytest.approx((41.0 + 20.5) / 2)
    assert second.metrics["score_blind/mean"] == pytest.approx(6.0)
    assert first.params["model.connector.name"] == "mlp" and first.params["arm"] == "mlp"
    assert full.status == "diverged" and full.message == "loss is nan" and math.isnan(full.metrics[schema.TRAIN_LOSS])
    assert going.status == "running" and going.scores == []
    assert read_records(recorded.tracking_uri, "no/such") == []


def test_a_step_logged_twice_counts_once(home: Home) -> None:
    """As after a resume from a checkpoint."""
    tracker = RunTracker.start(make_spec(), home=home)
    for value in (1.0, 0.5):
        tracker.log_metrics({schema.TRAIN_LOSS: value}, 10)
        time.sleep(0.01)
    tracker.finish("finished")
    (record,) = read_records(home.tracking_uri, "demo/t01")
    points = read_history(home.tracking_uri, record.run_id, [schema.TRAIN_LOSS])[schema.TRAIN_LOSS]
    assert [(p.step, p.value) for p in points] == [(10, 0.5)]


def test_records_survive_a_file_and_keep_nothing_of_the_machine(recorded: Home, tmp_path: Path) -> None:
    records = read_records(recorded.tracking_uri, "demo/t01")
    histories = {r.run_id: read_history(recorded.tracking_uri, r.run_id, [schema.TRAIN_LOSS]) for r in records}
    path = tmp_path / "results" / "records.json"
    dump_records(path, records, histories)
    assert str(tmp_path) not in path.read_text()
    loaded = load_records(path)
    assert loaded.histories == histories
    assert [r.scores for r in loaded.records] == [r.scores for r in records]
    assert [r.metrics for r in loaded.records] == [r.metrics for r in records]
    dump_records(tmp_path / "again.json", loaded.records, loaded.histories)
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_a_file_that_is_no_records_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"records": 3')
    with pytest.raises(TrackingError, match=r"bad\.json"):
        load_records(tmp_path / "bad.json")


def a_file_with(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A records file of one run with one score, after a change by hand."""
    score = {"column": "vqa", "blind": False, "score": 50.0}
    record = RunRecord("r", "e", "n", "finished", {}, {}, {"m": float("nan")}, "a", 0, "tiny", [score])
    dump_records(path, [record], {"r": {"m": [Point(0, 1.0, 2)]}})
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    return path


FOREIGN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda b: b["records"][0].update(seed="zero"), r"records\[0\]\.seed: .*'zero'"),
    (lambda b: b["records"][0].update(seed=None), r"records\[0\]\.seed: .*None"),
    (lambda b: b["records"][0].update(scores="[]"), r"records\[0\]\.scores: .*'\[\]'"),
    (lambda b: b["records"][0].update(scores=[["vqa"]]), r"records\[0\]\.scores\[0\]: "),
    (lambda b: b["records"][0]["scores"][0].update(score=float("nan")), r"records\[0\]\.scores\[0\]\.score: .*nan"),
    (lambda b: b["records"][0]["scores"][0].update(score=float("inf")), r"records\[0\]\.scores\[0\]\.score: .*inf"),
    (lambda b: b["records"][0]["scores"][0].update(score="high"), r"records\[0\]\.scores\[0\]\.score: .*'high'"),
    (lambda b: b["records"][0]["scores"][0].pop("column"), r"records\[0\]\.scores\[0\] has no 'column'"),
    (lambda b: b["records"][0].update(metrics={"m": "much"}), r"records\[0\]\.metrics\.m: .*'much'"),
    (lambda b: b["records"][0].update(new=1), r"records\[0\]: unknown field 'new'"),
    (lambda b: b["records"][0].pop("arm"), r"records\[0\] has no 'arm'"),
    (lambda b: b["records"].append(None), r"records\[1\] must be an object"),
    (lambda b: b.update(records=None), "records must be a list"),
    (lambda b: b.update(format=2), "records of format 2"),
    (lambda b: b.update(histories={"r": {"m": [[0, "x", 1]]}}), r"histories\.r\.m\[0\]: .*'x'"),
    (lambda b: b.update(histories={"r": {"m": [[0]]}}), r"histories\.r\.m\[0\] must be"),
    (lambda b: b.update(histories=[]), "histories must be an object"),
]


@pytest.mark.parametrize(("change", "message"), FOREIGN, ids=[message for _, message in FOREIGN])
def test_foreign_contents_are_one_line_that_names_the_value(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(TrackingError, match=rf"bad\.json: cannot be read as a records file \({message}") as caught:
        load_records(a_file_with(tmp_path / "bad.json", change))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 200_000, '{"format": ' + "7" * 5000 + "}"])
def test_what_is_no_records_file_at_all_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(TrackingError, match=r"bad\.json: cannot be read as a records file"):
        load_records(tmp_path / "bad.json")


def test_reading_a_local_store_imports_neither_mlflow_nor_torch(recorded: Home) -> None:
    code = (
        "import sys; from vlm_ablate.tracking.records import read_records; "
        f"assert len(read_records({recorded.tracking_uri!r}, 'demo/t01')) == 4; "
        "assert not {'mlflow', 'torch', 'pandas', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_long_json_tags_are_split_and_joined() -> None:
    value = [{"column": f"benchmark {i}", "score": i / 7} for i in range(600)]
    tags = schema.json_tag(schema.SCORES, value)
    assert len(tags) > 1 and all(len(text) <= 8000 for text in tags.values())
    assert schema.read_json_tag(tags, schema.SCORES) == value
    # A shorter value written over it leaves the old tail, which is then ignored.
    assert schema.read_json_tag(tags | schema.json_tag(schema.SCORES, [1]), schema.SCORES) == [1]


def test_ui_pages_name_every_experiment_and_compare_what_is_done(recorded: Home) -> None:
    pages = {page.experiment: page for page in ui_pages(recorded.tracking_uri, "http://127.0.0.1:5000")}
    assert set(pages) == {"demo/t01", "demo/t02"}
    done = [r.run_id for r in read_records(recorded.tracking_uri, "demo/t01") if r.status in schema.DONE]
    compare = pages["demo/t01"].compare
    assert compare is not None and len(done) == 3 and all(run in compare for run in done)


def test_a_missing_store_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no tracking store"):
        read_records(f"sqlite:///{tmp_path}/mlflow.db", "demo/t01")
    assert find_done(f"sqlite:///{tmp_path}/mlflow.db", ["abc"]) == {}
