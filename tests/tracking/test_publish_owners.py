"""Several processes and one store: a run is shown by the one that has it, and stands there once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.runs.publishing import Publishing, publish_missing
from vlm_ablate.runs.view import view_of
from vlm_ablate.storage import guard, unguard
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.mlflow_run import MlflowRun
from vlm_ablate.tracking.publish import RunView, begin_again, publish
from vlm_ablate.tracking.read import read_records
from vlm_ablate.tracking.store import connect, open_experiment

LOSS = schema.TRAIN_LOSS


def show(view: RunView, home: Home) -> str:
    return publish(view, home.tracking_uri, home.root / "notes")


def losing(home: Home, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], str]) -> str:
    """Publish for a process that is stopped while it makes the store's run; `meanwhile` another has the run and shows
    it. Returns what that gives."""
    others, create = [], MlflowClient.create_run

    def stopped(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(MlflowClient, "create_run", create)
        if meanwhile.__name__ == "before":
            others.append(meanwhile())
        made = create(*given, **named)
        if meanwhile.__name__ == "after":
            others.append(meanwhile())
        return made

    monkeypatch.setattr(MlflowClient, "create_run", stopped)
    notes = home.root / "first"

    def check(_: float) -> None:
        raise LeaseLost("another process has it")

    guard(notes, check)
    try:
        with pytest.raises(LeaseLost):
            publish(view_of(write_results(make_spec(), home)), home.tracking_uri, notes)
    finally:
        unguard(notes, check)
    return others[0]


def test_who_lost_the_run_while_it_made_one_in_the_store_takes_that_back(home: Home, monkeypatch) -> None:
    def before() -> str:
        return show(view_of(write_results(make_spec(), home)), home)

    shown = losing(home, monkeypatch, before)
    assert [run.info.run_id for run in connect(home.tracking_uri).search_runs(["1"])] == [shown]


def test_what_the_run_s_owner_has_found_in_the_store_stays(home: Home, monkeypatch) -> None:
    def after() -> str:
        return show(view_of(write_results(make_spec(), home)), home)

    shown = losing(home, monkeypatch, after)
    (run,) = connect(home.tracking_uri).search_runs(["1"])
    assert (run.info.run_id, run.info.status) == (shown, "FINISHED")


def test_a_run_that_a_stopped_process_left_behind_between_two_looks_is_deleted(home: Home, monkeypatch) -> None:
    """The owner had looked and found none; the other has since made one, seen no second, and left it."""
    view, create, left = view_of(write_results(make_spec(), home)), MlflowClient.create_run, []

    def beside(*given: Any, **named: Any) -> Any:
        left.append(create(*given, **named).info.run_id)
        return create(*given, **named)

    monkeypatch.setattr(MlflowClient, "create_run", beside)
    shown = show(view, home)
    assert shown not in left and [run.info.run_id for run in connect(home.tracking_uri).search_runs(["1"])] == [shown]


def test_nothing_more_is_given_once_the_run_is_another_s(home: Home) -> None:
    view, notes = view_of(write_results(make_spec(), home, points=[(10, {LOSS: 2.0})])), home.root / "notes"
    run_id, times = show(replace(view, status=schema.RUNNING, points=()), home), []

    def check(_: float) -> None:
        times.append(1)
        if len(times) > 1:
            raise LeaseLost("another process has it")

    guard(notes, check)
    try:
        with pytest.raises(LeaseLost):
            show(view, home)
    finally:
        unguard(notes, check)
    (run,) = connect(home.tracking_uri).search_runs(["1"])
    assert (run.info.run_id, run.info.status, run.data.metrics) == (run_id, "RUNNING", {})


def test_runs_that_begin_together_share_their_data_set(home: Home) -> None:
    """All find it missing and all insert it: the store lets one through, and the others must find it then."""
    client = connect(home.tracking_uri)
    experiment = open_experiment(client, home.tracking_uri, "demo/t01")
    runs = [MlflowRun(client, client.create_run(experiment).info.run_id) for _ in range(4)]
    for round_ in range(6):
        together = Barrier(len(runs))

        def give(run: MlflowRun, digest: str = f"digest-{round_}", together: Barrier = together) -> None:
            together.wait()
            run.dataset("offline", digest)

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(give, runs))
    for run in runs:
        inputs = client.get_run(run.run_id).inputs.dataset_inputs
        assert sorted(each.dataset.digest for each in inputs) == [f"digest-{round_}" for round_ in range(6)]


def test_a_run_that_another_process_has_is_left_to_it(home: Home) -> None:
    spec = make_spec()
    results = write_results(spec, home)
    with Lease.acquire(results.folder.root):
        assert publish_missing(home, home.tracking_uri, print) == 0
    assert publish_missing(home, home.tracking_uri, print) == 1


def test_who_has_lost_a_run_does_not_publish_it(home: Home) -> None:
    spec = make_spec()
    results = write_results(spec, home)
    with Lease.acquire(results.folder.root) as lease:
        (results.folder.root / f".lease-{lease.token + 1}").touch()
        with Publishing(spec, home, home.tracking_uri, pytest.fail, flush_seconds=0.01):
            time.sleep(0.3)
    assert read_records(home.tracking_uri, spec.experiment) == []


def test_once_the_end_of_a_run_waits_for_a_store_no_longer_nothing_more_is_given(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hangs for so long; the lease is free then, and the next command shows the run."""
    hangs, goes = threading.Event(), threading.Event()

    def hang(uri: str) -> None:
        hangs.set()
        assert goes.wait(120)

    monkeypatch.setattr("vlm_ablate.tracking.publish.ensure_store", hang)
    monkeypatch.setattr("vlm_ablate.runs.publishing.CLOSE_SECONDS", 0.0)
    spec = make_spec()
    folder = write_results(spec, home).folder
    publishing = Publishing(spec, home, home.tracking_uri, pytest.fail)
    with Lease.acquire(folder.root), publishing:
        assert hangs.wait(60)
    goes.set()
    publishing._thread.join(120)
    assert read_records(home.tracking_uri, spec.experiment) == [] and not list(folder.published.glob("*"))
    assert publish_missing(home, home.tracking_uri, print) == 1


def test_results_that_are_put_aside_while_a_store_is_given_them_are_earlier_ones(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a command that has no lease of this run: it may have the stage of another."""
    view, end = view_of(write_results(make_spec(), home)), MlflowRun.end
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "end", lambda run, *told: (begin_again(home.root / "notes"), end(run, *told))[1])
        show(replace(view, status=schema.RUNNING, points=()), home)
        first = show(view, home)
    assert show(view, home) != first
    assert len(read_records(home.tracking_uri, view.experiment)) == 1
