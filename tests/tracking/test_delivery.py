"""Nothing a run says is lost: not when the store goes away, not when the run is continued."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.tracking.conftest import Server
from tests.tracking.specs import make_scores, make_spec
from vlm_ablate.home import Home
from vlm_ablate.tracking import delivery, operations, schema
from vlm_ablate.tracking.client_reader import ClientReader
from vlm_ablate.tracking.logger import RunTracker, record_failure
from vlm_ablate.tracking.records import read_history, read_records
from vlm_ablate.tracking.spool import Spool, read_spool, replay_spools


def spools(home: Home) -> list[Path]:
    return list(home.runs.glob("*/spool/*.jsonl"))


def test_a_run_is_one_top_level_run_with_everything_about_it(home: Home, tmp_path: Path) -> None:
    spec = make_spec()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "adapter.safetensors").write_bytes(b"abc")
    (tmp_path / "plan.json").write_text("{}")
    with RunTracker.start(spec, home=home) as tracker:
        tracker.log_params({"plan": {"visual_tokens": 64}})
        tracker.log_metrics({schema.TRAIN_LOSS: 2.0}, 10)
        tracker.set_tags(
            {schema.DATA_FINGERPRINT: "f00", schema.LICENCES: [{"asset": "openmoji", "licence": "CC-BY-SA"}]}
        )
        tracker.log_dataset("offline", "0123456789abcdef", "pip")
        tracker.log_artifact(tmp_path / "plan.json")
        tracker.log_artifact(tmp_path / "weights", schema.WEIGHTS_DIR)
        assert tracker.finish("finished")
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert record.run_id == tracker.run_id
    assert record.params["plan.visual_tokens"] == "64" and record.params["data.sequence_length"] == "2048"
    assert record.tags[schema.DATA_FINGERPRINT] == "f00"
    assert "torch" in schema.read_json_tag(record.tags, schema.VERSIONS)
    assert record.tags[schema.GIT] and record.tags[schema.THREADS] == "1"
    assert not any("parentRunId" in key for key in record.tags)
    folder = home.artifacts / spec.experiment / record.run_id / "artifacts"
    assert (folder / "plan.json").exists() and (folder / "weights" / "adapter.safetensors").read_bytes() == b"abc"
    assert not spools(home)


def test_an_interrupted_run_is_continued_not_doubled(home: Home) -> None:
    spec = make_spec()
    with RunTracker.start(spec, home=home) as tracker:
        tracker.log_metrics({schema.TRAIN_LOSS: 2.0}, 10)
    with RunTracker.start(spec, home=home) as again:
        again.log_metrics({schema.TRAIN_LOSS: 1.0}, 20)
        again.finish("finished")
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert again.run_id == tracker.run_id == record.run_id and record.status == "finished"
    points = read_history(home.tracking_uri, record.run_id, [schema.TRAIN_LOSS])[schema.TRAIN_LOSS]
    assert [p.step for p in points] == [10, 20]


def test_metrics_are_delivered_in_batches_while_the_run_goes(home: Home) -> None:
    tracker = RunTracker.start(make_spec(), home=home, flush_seconds=0.2)
    started = time.perf_counter()
    for step in range(2000):
        tracker.log_metrics({schema.TRAIN_LOSS: 1.0}, step)
    assert time.perf_counter() - started < 1.0
    for _ in range(100):
        points = read_history(home.tracking_uri, tracker.run_id, [schema.TRAIN_LOSS])[schema.TRAIN_LOSS]
        if len(points) == 2000:
            break
        time.sleep(0.1)
    assert len(points) == 2000
    tracker.finish("finished")


def test_a_server_that_goes_away_is_survived_and_caught_up_with(home: Home, server: Server, tmp_path: Path) -> None:
    notices: list[str] = []
    (tmp_path / "table.csv").write_text("a,b\n")
    server.start()
    first, second = make_spec("mlp"), make_spec("linear")
    tracker = RunTracker.start(first, home=home, tracking_uri=server.uri, notice=notices.append, flush_seconds=0.2)
    tracker.log_metrics({schema.TRAIN_LOSS: 3.0}, 1)
    server.kill()
    tracker.log_metrics({schema.TRAIN_LOSS: 2.0}, 2)
    tracker.log_artifact(tmp_path / "table.csv")
    tracker.log_scores(make_scores(60.0), 2)
    assert not tracker.finish("finished", timeout=20)
    # A run that starts while the server is away is recorded from its first word, too.
    with RunTracker.start(second, home=home, tracking_uri=server.uri, notice=notices.append) as offline:
        assert offline.run_id is None
        offline.log_metrics({schema.TRAIN_LOSS: 1.0}, 1)
        assert not offline.finish("diverged", "loss is nan", timeout=20)
    assert len(spools(home)) == 2
    assert any("delivered later" in notice for notice in notices)
    assert replay_spools(home, notices.append) == 0 and len(spools(home)) == 2

    server.start()
    assert replay_spools(home, notices.append) == 2 and not spools(home)
    mlp, linear = ClientReader(server.uri).runs(experiment="demo/t01")
    assert (mlp.arm, mlp.status, mlp.scores) == ("mlp", "finished", make_scores(60.0))
    assert (linear.arm, linear.status, linear.message) == ("linear", "diverged", "loss is nan")
    history = read_history(server.uri, mlp.run_id, [schema.TRAIN_LOSS])[schema.TRAIN_LOSS]
    assert [(p.step, p.value) for p in history] == [(1, 3.0), (2, 2.0)]
    assert list((tmp_path / "server" / "artifacts").rglob("table.csv"))
    assert read_records(server.uri, "demo/t01") == [mlp, linear]


def test_a_store_that_returns_during_the_run_gets_everything(home: Home) -> None:
    """The database is out of reach for a while, as on a network disk."""
    notices: list[str] = []
    tracker = RunTracker.start(make_spec(), home=home, notice=notices.append, flush_seconds=0.1, retry_seconds=0.1)
    aside = home.root / "aside.db"
    shutil.move(home.database, aside)
    tracker.log_metrics({schema.TRAIN_LOSS: 3.0}, 1)
    for _ in range(100):
        if spools(home):
            break
        time.sleep(0.1)
    assert spools(home)
    assert not home.database.exists()
    shutil.copyfile(aside, home.root / "back.db")
    (home.root / "back.db").replace(home.database)
    tracker.log_metrics({schema.TRAIN_LOSS: 2.0}, 2)
    assert tracker.finish("finished") and not spools(home)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    history = read_history(home.tracking_uri, record.run_id, [schema.TRAIN_LOSS])[schema.TRAIN_LOSS]
    assert [p.step for p in history] == [1, 2] and record.status == "finished"
    assert any("answers again" in notice for notice in notices)


def test_replaying_a_spool_twice_changes_nothing(home: Home) -> None:
    tracker = RunTracker.start(make_spec(), home=home)
    tracker.finish("finished")
    key = tracker._delivery.writer.key
    spool = Spool(home.run(make_spec().hash).root, key)
    again = [delivery.operations.create("again", {schema.KIND: "run", schema.HASH: key.hash, schema.ARM: key.arm}),
             delivery.operations.metrics([("train/loss", 1.0, 1000, 1)]),
             delivery.operations.tags({schema.STATUS: "finished"}),
             delivery.operations.status("FINISHED", end=True)]  # fmt: skip
    for _ in range(2):
        spool.append(again, None)
        with open(spool.path, "a") as file:
            file.write('{"op": "metr')  # a line cut short by a kill
        assert len(read_spool(spool.path)[2]) == 4
        assert replay_spools(home) == 1
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert len(read_history(home.tracking_uri, record.run_id, ["train/loss"])["train/loss"]) == 1


def test_a_value_the_store_refuses_is_reported_and_the_rest_goes_on(home: Home) -> None:
    notices: list[str] = []
    tracker = RunTracker.start(make_spec(), home=home, notice=notices.append)
    tracker.log_params({"arm": "another"})  # params cannot change
    tracker.log_metrics({schema.TRAIN_LOSS: 1.0}, 1)
    assert tracker.finish("finished")
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert record.params["arm"] == "mlp" and record.metrics[schema.TRAIN_LOSS] == 1.0
    assert any("refused params" in notice for notice in notices)


def test_a_run_that_cannot_speak_any_more_is_recorded_as_failed(home: Home) -> None:
    RunTracker.start(make_spec(), home=home).close()
    record_failure(make_spec(), "killed", home=home)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert (record.status, record.message) == ("failed", "killed")


@pytest.mark.parametrize("status", ["finished", "diverged", "failed", "skipped"])
def test_mlflow_knows_a_status_for_each_of_ours(home: Home, status: str) -> None:
    RunTracker.start(make_spec(), home=home).finish(status)
    (run,) = ClientReader(home.tracking_uri)._search(["1"], "")
    assert run.info.status == schema.MLFLOW_STATUS[status] and run.info.end_time


def test_runs_that_begin_together_share_their_data_set(home: Home) -> None:
    """All find it missing and all insert it: the store lets one through, and the others must find it then."""
    notices: list[str] = []
    trackers = [RunTracker.start(make_spec(seed=k), home=home, notice=notices.append) for k in range(4)]
    for round_ in range(6):
        together = Barrier(len(trackers))

        def apply(tracker: RunTracker, digest: str = f"digest-{round_}", together: Barrier = together) -> None:
            together.wait()
            tracker._delivery.writer.apply(operations.dataset("offline", digest, "pip"))

        with ThreadPoolExecutor(len(trackers)) as pool:
            list(pool.map(apply, trackers))
    assert all(tracker.finish("finished") for tracker in trackers)
    assert not notices
