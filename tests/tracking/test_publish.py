"""A store shows what is on disk: all of it, in order, once; whatever happens to the store meanwhile."""

from __future__ import annotations

import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs.disk import write_log, write_results
from tests.tracking.conftest import Server
from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.errors import TrackingError
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.publishing import Publishing, publish_missing
from vlm_ablate.runs.rerun import put_aside
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.view import record_of, view_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.client_reader import ClientReader
from vlm_ablate.tracking.mlflow_run import MlflowRun
from vlm_ablate.tracking.publish import RunView, is_published, note_file, publish
from vlm_ablate.tracking.read import read_history, read_records
from vlm_ablate.tracking.records import Point
from vlm_ablate.tracking.store import connect

LOSS = schema.TRAIN_LOSS


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in read_history(uri, run_id, [LOSS])[LOSS]]


def show(view: RunView, home: Home, uri: str | None = None) -> str:
    return publish(view, uri or home.tracking_uri, home.root / "notes")


def test_a_run_is_one_top_level_run_with_everything_about_it(home: Home) -> None:
    spec = make_spec()
    results = write_results(spec, home, points=[(10, {LOSS: 2.0}), (20, {LOSS: 1.0})], licences=[{"licence": "CC0"}])
    (results.folder.artifacts / "plan.json").write_text("{}")
    (results.folder.artifacts / "predictions").mkdir()
    (results.folder.artifacts / "predictions" / "predictions.csv").write_text("id\n")
    run_id = show(view_of(results), home)
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert (record.run_id, record.id, record.status) == (run_id, spec.id, "finished")
    assert record.params["data.sequence_length"] == "2048" and record.params["arm"] == "mlp"
    assert record.tags[schema.DATA_FINGERPRINT] == "f00" and record.tags[schema.GIT]
    assert "torch" in schema.read_json_tag(record.tags, schema.VERSIONS)
    assert record.metrics["score/mean"] == 50.0 and record.metrics["score_blind/vqa"] == 10.0
    assert losses(home.tracking_uri, run_id) == [(10, 2.0), (20, 1.0)]
    assert not any("parentRunId" in key for key in record.tags)
    folder = home.artifacts / spec.experiment / run_id / "artifacts"
    assert (folder / "plan.json").exists() and (folder / "predictions" / "predictions.csv").exists()


def test_publishing_again_changes_nothing_and_goes_on_where_it_was(home: Home) -> None:
    spec = make_spec()
    stage = write_log(spec, home, [(1, {LOSS: 3.0})])
    first = show(view_of(find_results(spec, home)), home)
    assert show(view_of(find_results(spec, home)), home) == first
    Log(stage.log).add({LOSS: math.nan}, 2)
    assert show(view_of(find_results(spec, home)), home) == first
    points = losses(home.tracking_uri, first)
    assert points[0] == (1, 3.0) and points[1][0] == 2 and math.isnan(points[1][1])
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert record.status == "running"


def test_a_run_that_failed_and_then_finished_is_one_run_that_finished(home: Home) -> None:
    spec = make_spec()
    show(view_of(write_results(spec, home, status="failed", message="killed")), home)
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert (record.status, record.message) == ("failed", "killed")
    note_attempt(spec, home, "running")
    run_id = show(view_of(find_results(spec, home)), home)
    assert connect(home.tracking_uri).get_run(run_id).info.status == "RUNNING", "while it goes on"
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert (record.status, record.message) == ("running", "")
    show(view_of(write_results(spec, home)), home)
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert (record.status, record.message) == ("finished", "")


def test_a_run_that_is_computed_again_does_not_keep_the_numbers_of_before(home: Home) -> None:
    """Its earlier results stay in the store, and are read for no table."""
    spec = make_spec()

    def shown(score: float, loss: float) -> str:
        view = view_of(write_results(spec, home, score=score, points=[(10, {LOSS: loss})]))
        return publish(view, home.tracking_uri, run_folder(home, spec.id).published)

    before = shown(50.0, 2.0)
    assert shown(50.0, 2.0) == before
    put_aside([spec], home)
    now = shown(60.0, 1.0)
    assert now != before and shown(60.0, 1.0) == now
    (record,) = read_records(home.tracking_uri, spec.experiment)
    assert (record.run_id, record.metrics["score/mean"]) == (now, 60.0)
    earlier = connect(home.tracking_uri).get_run(before).data
    assert (earlier.tags[schema.KIND], earlier.metrics["score/mean"]) == (schema.EARLIER_KIND, 50.0)
    assert (losses(home.tracking_uri, now), losses(home.tracking_uri, before)) == ([(10, 1.0)], [(10, 2.0)])


def test_a_run_of_another_table_whose_results_were_computed_again_does_not_keep_the_numbers_of_before(
    home: Home,
) -> None:
    spec, other = make_spec(), replace(make_spec(), experiment="demo/other")
    for each, score in ((spec, 50.0), (other, 50.0), (spec, 60.0), (other, 60.0)):
        if score == 60.0 and each is spec:
            put_aside([spec], home)
            assert publish_missing(home, home.tracking_uri, print) == 0, "nobody computes the other one now"
        results = write_results(each, home, score=score)
        note_attempt(each, home, "finished")
        publish(view_of(results), home.tracking_uri, run_folder(home, each.id).published)
    for each in (spec, other):
        (record,) = read_records(home.tracking_uri, each.experiment)
        points = read_history(home.tracking_uri, record.run_id, ["score/mean"])["score/mean"]
        assert [point.value for point in points] == [60.0], each.experiment


def test_who_puts_results_aside_says_for_whom_it_waits(home: Home) -> None:
    spec, told = make_spec(), list[str]()
    stage = write_results(spec, home).stages[-1].root
    with ThreadPoolExecutor(1) as pool:
        with Lease.acquire(stage):
            aside = pool.submit(put_aside, [spec], home, told.append)
            wait_for(lambda: told)
            assert stage.is_dir()
        assert len(aside.result(60)) == 1 and not stage.exists()
    assert len(told) == 1 and stage.name in told[0] and "waits for" in told[0]


@pytest.mark.parametrize("loss", ["run deleted", "store lost", "note lost"])
def test_what_a_store_has_lost_is_given_again(home: Home, store_template: Path, loss: str) -> None:
    view = view_of(write_results(make_spec(), home))
    run_id = show(view, home)
    if loss == "run deleted":
        connect(home.tracking_uri).delete_run(run_id)
    elif loss == "store lost":
        home.database.unlink()
        shutil.copyfile(store_template, home.database)
    else:
        shutil.rmtree(home.root / "notes")
    again = show(view, home)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert record.run_id == again and (again == run_id) == (loss == "note lost")
    assert losses(home.tracking_uri, again) == [(10, 2.0)] and record.metrics["score/vqa"] == 50.0


def test_a_server_that_answers_500_for_a_while_is_survived_and_caught_up_with(home: Home, server: Server) -> None:
    notices: list[str] = []
    spec = make_spec()
    with server.failing() as asked:
        with Publishing(spec, home, server.uri, notices.append, flush_seconds=0.1):
            write_results(spec, home, points=[(1, {LOSS: 3.0})])
            wait_for(lambda: notices)
        assert asked and len(notices) == 1 and "follows later" in notices[0]
        with pytest.raises(TrackingError):
            publish_missing(home, server.uri, notices.append)
    server.start()
    assert publish_missing(home, server.uri, notices.append) == 1
    (record,) = read_records(server.uri, "demo/t01")
    assert record.status == "finished" and losses(server.uri, record.run_id) == [(1, 3.0)]


def test_another_store_gets_everything(home: Home, tmp_path: Path, store_template: Path) -> None:
    view = view_of(write_results(make_spec(), home))
    show(view, home)
    shutil.copyfile(store_template, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    assert losses(other, show(view, home, other)) == [(10, 2.0)]


def test_a_server_that_goes_away_is_survived_and_caught_up_with(home: Home, server: Server) -> None:
    notices: list[str] = []
    server.start()
    spec, other = make_spec("mlp"), make_spec("linear")
    with Publishing(spec, home, server.uri, notices.append, flush_seconds=0.2):
        write_log(spec, home, [(1, {LOSS: 3.0})])
        wait_for(lambda: ClientReader(server.uri).runs("demo/t01"))
        server.kill()
        write_results(spec, home, points=[(2, {LOSS: 2.0})])
    assert any("follows later" in notice for notice in notices)
    write_results(other, home, status="diverged", message="loss is nan")
    with pytest.raises(TrackingError):
        publish_missing(home, server.uri, notices.append)
    server.start()
    assert publish_missing(home, server.uri, notices.append) == 2
    assert publish_missing(home, server.uri, notices.append) == 0
    records = {r.arm: r for r in read_records(server.uri, "demo/t01")}
    assert (records["mlp"].status, records["linear"].status) == ("finished", "diverged")
    assert records["linear"].message == "loss is nan"
    assert losses(server.uri, records["mlp"].run_id) == [(1, 3.0), (2, 2.0)]


def test_a_store_that_returns_during_the_run_gets_everything(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is out of reach for a while, as on a network disk.

    It goes and comes in the thread that publishes: taken away while MLflow opens it, it would be made anew, empty.
    """
    away, aside = threading.Event(), home.root / "aside.db"

    def reach(uri: str) -> None:
        if away.is_set():
            if not aside.exists():
                shutil.move(home.database, aside)
            raise TrackingError("the store is out of reach")
        if aside.exists():
            shutil.move(aside, home.database)

    monkeypatch.setattr("vlm_ablate.runs.publishing.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("vlm_ablate.tracking.publish.ensure_store", reach)
    notices: list[str] = []
    spec = make_spec()
    with Publishing(spec, home, home.tracking_uri, notices.append, flush_seconds=0.1):
        away.set()
        stage = write_log(spec, home, [(1, {LOSS: 3.0})])
        wait_for(lambda: notices)
        away.clear()
        Log(stage.log).add({LOSS: 2.0}, 2)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert losses(home.tracking_uri, record.run_id) == [(1, 3.0), (2, 2.0)]


def test_what_a_store_refuses_is_reported_alone(home: Home) -> None:
    notices: list[str] = []
    view = view_of(write_results(make_spec(), home))
    run_id = show(view, home)
    changed = replace(view, id="other", params={**view.params, "arm": "another", "new": "1"})
    note = note_file(home.root / "notes", home.tracking_uri)
    note.write_text(note.read_text().replace('"params"', '"forgotten"'))
    publish(replace(changed, id=view.id), home.tracking_uri, home.root / "notes", notices.append)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert record.run_id == run_id and (record.params["arm"], record.params["new"]) == ("mlp", "1")
    assert [notice for notice in notices if "refused param 'arm'" in notice] == notices


def test_names_that_mlflow_refuses_are_shown_under_safe_ones(home: Home) -> None:
    view = view_of(write_results(make_spec(), home, points=[(1, {"sizes/(1) 50%": 4.0})]))
    show(replace(view, params={**view.params, "stages.(1) 50%.steps": "3"}), home)
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert record.metrics["sizes/(1) 50%"] == 4.0 and record.params["stages.(1) 50%.steps"] == "3"


def test_ended_runs_that_a_store_lacks_are_given_by_the_next_command(home: Home) -> None:
    for seed in range(3):
        write_results(make_spec(seed=seed), home)
    write_log(make_spec("going"), home, [])
    assert publish_missing(home, home.tracking_uri, print) == 3
    assert publish_missing(home, home.tracking_uri, print) == 0
    (first, *_) = read_records(home.tracking_uri, "demo/t01")
    connect(home.tracking_uri).delete_run(first.run_id)
    assert publish_missing(home, home.tracking_uri, print) == 1
    assert len(read_records(home.tracking_uri, "demo/t01")) == 3


def test_runs_that_cannot_be_read_do_not_keep_the_others_from_the_store(home: Home) -> None:
    for seed in range(3):
        write_results(make_spec(seed=seed), home)
    damaged, foreign, _ = (run_folder(home, make_spec(seed=seed).id) for seed in range(3))
    damaged.file.write_text("{")
    body = foreign.read()
    del body["spec"]["config"]["model"]
    foreign.write(body)
    notices: list[str] = []
    assert publish_missing(home, home.tracking_uri, notices.append) == 1
    assert len(notices) == 1 and "1 earlier run (" in notices[0]


def test_a_run_with_a_damaged_log_is_named_and_keeps_nobody_from_the_others(home: Home) -> None:
    results = [write_results(make_spec(seed=seed), home) for seed in range(2)]
    log = results[0].stages[0].log
    log.write_bytes(b"\xff\n" + log.read_bytes())
    for given in (1, 0):
        told: list[str] = []
        assert publish_missing(home, home.tracking_uri, told.append) == given
        assert len(told) == 1 and f"{log}:1 is no entry of a run's log" in told[0]
    assert [r.id for r in read_records(home.tracking_uri, "demo/t01")] == [results[1].spec.id]


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_no_duration_is_negative_when_the_clock_went_back(home: Home, status: str) -> None:
    results = write_results(make_spec(), home, status=status, started_ms=2**45, ended_ms=1_000)
    record, view = record_of(results), view_of(results)
    assert (record.end_time is None) == (status == "failed") and (record.end_time or 2**45) >= record.start_time
    assert view.end_ms is not None and view.end_ms >= view.start_ms


def test_a_note_that_cannot_be_read_is_no_note(home: Home) -> None:
    note = note_file(home.root / "notes", home.tracking_uri)
    note.parent.mkdir()
    for text in ("", "[]", '{"points": "many"}', "\x00"):
        note.write_text(text)
        assert not is_published("finished", home.root / "notes", home.tracking_uri)


def test_a_password_in_the_address_of_a_store_stands_in_no_file(home: Home) -> None:
    uri = "http://user:hunter2@127.0.0.1:9"
    with pytest.raises(TrackingError) as caught:
        publish(view_of(write_results(make_spec(), home)), uri, home.root / "notes")
    assert "hunter2" not in str(caught.value)
    assert not [p for p in home.root.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]


def test_what_was_given_before_the_store_failed_is_noted(home: Home) -> None:
    results = write_results(make_spec(), home, points=[(10, {LOSS: 2.0})])
    (results.folder.artifacts / "plan.json").write_text("{}")
    view = view_of(results)
    shutil.rmtree(home.artifacts, ignore_errors=True)
    home.artifacts.write_text("a file where the store keeps files of runs")
    with pytest.raises(TrackingError):
        show(view, home)
    note = json.loads(note_file(home.root / "notes", home.tracking_uri).read_text())
    assert (note["points"], note["status"], note["artifacts"]) == (len(view.points), "", {})
    home.artifacts.unlink()
    assert show(view, home) == note["run_id"]
    assert is_published("finished", home.root / "notes", home.tracking_uri)


@pytest.mark.parametrize("status", ["finished", "diverged", "failed", "skipped", "stopped"])
def test_mlflow_knows_a_status_for_each_of_ours(home: Home, status: str) -> None:
    show(view_of(write_results(make_spec(), home, status=status)), home)
    (run,) = ClientReader(home.tracking_uri)._search(["1"], "")
    assert run.info.status == schema.MLFLOW_STATUS[status] and run.info.end_time


def test_points_read_back_are_ordered_by_step(home: Home) -> None:
    run_id = show(view_of(write_results(make_spec(), home, points=[(1, {LOSS: 1.0}), (2, {LOSS: 2.0})])), home)
    history = read_history(home.tracking_uri, run_id, [LOSS, "never"])
    assert [type(p) for p in history[LOSS]] == [Point] * 2 and history["never"] == []


def test_what_a_stage_tells_at_its_end_comes_behind_what_a_store_was_given_before(home: Home) -> None:
    spec = make_spec()
    points = [(step, {LOSS: 1.0 / step}) for step in (1, 2, 3)]
    write_log(spec, home, points[:2])
    given = view_of(find_results(spec, home)).points
    run = show(view_of(find_results(spec, home)), home)
    Log(find_results(spec, home).stages[-1].log).add(points[2][1], 3)
    write_results(spec, home, points=())
    ended = view_of(find_results(spec, home))
    assert ended.points[: len(given)] == given
    assert show(ended, home) == run
    sizes = read_history(home.tracking_uri, run, [schema.PARAMS_TOTAL])[schema.PARAMS_TOTAL]
    assert [p.value for p in sizes] == [7.0] and losses(home.tracking_uri, run) == [(s, v[LOSS]) for s, v in points]


def test_what_was_given_is_not_sent_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    points = MlflowRun.points
    monkeypatch.setattr(MlflowRun, "points", lambda run, given: (sent.append(len(given)), points(run, given))[1])
    spec = make_spec()
    write_log(spec, home, [(1, {LOSS: 1.0}), (2, {LOSS: 0.5})])
    for _ in range(2):
        show(view_of(find_results(spec, home)), home)
    Log(find_results(spec, home).stages[-1].log).add({LOSS: 0.25}, 3)
    show(view_of(find_results(spec, home)), home)
    assert sent == [2, 1]
