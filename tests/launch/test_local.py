"""The local launcher: workers that serve many runs, die, are interrupted, and never lose what is finished."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.cli.launchers import launch, where_to
from vlm_ablate.errors import UnknownNameError, VlmAblateError
from vlm_ablate.events import Checkpointed, Event, RunFinished, RunStarted, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch import devices
from vlm_ablate.launch.base import LaunchInterrupted, OnEvent, Placement, RunFuture, stop_early
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import LocalConfig
from vlm_ablate.launch.local import LocalLauncher, _Worker
from vlm_ablate.registry import launchers
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.read import read_records

TARGET = "tests.launch.targets:execute"


def run(
    specs: Sequence[RunSpec], home: Home, on_event: OnEvent = print, *, jobs: int | None = 1, **options: Any
) -> list[RunOutcome]:
    with Campaign(LocalLauncher(LocalConfig(jobs=jobs)), home, on_event, target=TARGET, **options) as campaign:
        return campaign.run(specs)


def calls(home: Home) -> list[list[str]]:
    path = home.root / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_runs_are_spread_over_workers_and_come_back_in_order(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    events: list[Event] = []
    specs = [make_spec("mlp", seed) for seed in range(6)]
    outcomes = run(specs, home, events.append, jobs=2)
    assert [(o.run, o.name, o.status, o.scores) for o in outcomes] == [
        (s.id, s.run_name, "finished", {"vqa": float(s.seed)}) for s in specs
    ]
    served = calls(home)
    assert len(served) == 6 and len({pid for _, pid, *_ in served}) == 2
    assert {threads for _, _, threads, _ in served} == {"1"}
    for kind in (RunStarted, StepDone, RunFinished):
        assert {e.run for e in events if isinstance(e, kind)} == {s.id for s in specs}
    assert (run_folder(home, specs[0].id).root / "log.txt").exists()


def test_a_run_that_had_to_wait_for_a_stage_of_another_keeps_its_place(home: Home) -> None:
    two = {name: {"steps": 10, "batch_size": 4} for name in ("train", "more")}
    run([make_spec("first", note="same"), make_spec("goes on", note="same", stages=two), make_spec("last")], home)
    assert [arm for arm, *_ in calls(home)] == ["first", "goes", "last"]


def test_threads_of_the_command_line_reach_the_workers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_ablate.launch.campaign.EXECUTE", TARGET)
    monkeypatch.setattr(Campaign.__init__, "__kwdefaults__", {**Campaign.__init__.__kwdefaults__, "target": TARGET})
    launch([make_spec("mlp", 1)], home, home.tracking_uri, where_to(jobs=1, threads=3))
    assert [threads for _, _, threads, _ in calls(home)] == ["3"]


def test_a_worker_that_dies_fails_its_run_and_the_rest_goes_on(home: Home) -> None:
    specs = [make_spec("dies", note="kill"), make_spec("leaves", note="exit"), make_spec("mlp", 1), make_spec("mlp", 2)]
    events: list[Event] = []
    outcomes = run(specs, home, events.append)
    assert [o.status for o in outcomes] == ["failed", "failed", "finished", "finished"]
    assert "SIGKILL" in outcomes[0].message and "about to be killed" in outcomes[0].message
    assert "status 3" in outcomes[1].message
    assert [e.status for e in events if isinstance(e, RunFinished)] == ["failed", "failed", "finished", "finished"]
    records = {r.arm: r for r in read_records(home.tracking_uri, "demo/t01")}
    assert records["dies"].status == "failed" and "SIGKILL" in records["dies"].message
    # What failed is tried again by the next command; what finished is not.
    again = run(specs, home)
    assert [(o.status, o.reused) for o in again[2:]] == [("finished", True)] * 2
    assert [arm for arm, *_ in calls(home)].count("dies") == 2


def test_a_run_that_raises_is_a_failed_outcome_with_one_clear_message(home: Home) -> None:
    specs = [make_spec("full", note="raise:storage"), make_spec("bug", note="raise:bug"), make_spec("mlp", 1)]
    full, bug, mlp = run(specs, home)
    assert (full.status, bug.status, mlp.status) == ("failed", "failed", "finished")
    assert full.message.startswith("cannot write there: the disk is full")
    assert bug.message == "ZeroDivisionError: oh"
    assert "Traceback" in (run_folder(home, bug.run).root / "log.txt").read_text()
    assert len({pid for _, pid, *_ in calls(home)}) == 1
    assert {r.arm: r.status for r in read_records(home.tracking_uri, "demo/t01")} == {
        "full": "failed", "bug": "failed", "mlp": "finished"}  # fmt: skip


@pytest.mark.parametrize(("note", "status"), [("child", "failed"), ("child:left", "finished")])
def test_the_children_of_a_worker_end_with_it(home: Home, note: str, status: str) -> None:
    assert [o.status for o in run([make_spec("parent", note=note)], home)] == [status]
    child = Path("/proc") / (home.root / "child").read_text() / "stat"
    wait_for(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX")


def press_ctrl_c_when_training(events: list[Event]) -> None:
    wait_for(lambda: any(isinstance(event, StepDone) for event in events))
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_continues(home: Home) -> None:
    specs = [make_spec("mlp", 1), make_spec("long", note="sleep"), make_spec("never", note="begun")]
    run(specs[:1], home)
    events: list[Event] = []
    threading.Thread(target=press_ctrl_c_when_training, args=(events,)).start()
    with pytest.raises(LaunchInterrupted, match="1 of 3 runs are done") as caught:
        run(specs, home, events.append)
    assert [o.name for o in caught.value.outcomes] == [specs[0].run_name] and caught.value.exit_code == 130
    assert any(isinstance(event, Checkpointed) for event in events)
    assert [o.status for o in run(specs, home)] == ["finished"] * 3
    assert [o.message for o in run(specs[1:2], home)] == ["continued"]


def test_a_run_that_does_not_stop_in_time_is_killed(home: Home) -> None:
    events: list[Event] = []
    threading.Thread(target=press_ctrl_c_when_training, args=(events,)).start()
    started = time.monotonic()
    with pytest.raises(LaunchInterrupted, match="1 did not stop in time"):
        run([make_spec("long", note="sleep:stubborn")], home, events.append, grace_seconds=1)
    assert time.monotonic() - started < 200


def test_workers_stop_when_their_parent_is_killed(home: Home, tmp_path: Path) -> None:
    spec = make_spec("long", note="sleep")
    code = (
        "from pathlib import Path; from tests.tracking.specs import make_spec; from vlm_ablate.home import Home; "
        "from tests.launch.test_local import run; "
        f"run([make_spec('long', note='sleep')], Home(Path({str(home.root)!r})))"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    while "StepDone" not in parent.stdout.readline():
        pass
    parent.kill()
    parent.wait()
    checkpoint = run_folder(home, spec.id).root / "checkpoint"
    wait_for(checkpoint.exists)


def test_each_worker_gets_one_gpu(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    run([make_spec("mlp", seed) for seed in range(4)], home, jobs=None)
    served = calls(home)
    assert {gpu for *_, gpu in served} == {"3", "5"}
    assert len({(pid, gpu) for _, pid, _, gpu in served}) == 2


@pytest.mark.parametrize(
    ("value", "ids"), [("", []), ("-1", []), ("0", ["0"]), ("1, 2", ["1", "2"]), ("0,-1,1", ["0"]),
     ("NoDevFiles", []), ("GPU-8f2,MIG-1a", ["GPU-8f2", "MIG-1a"])]
)
def test_visible_gpus_follow_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, ids: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.gpus() == ids


def test_a_run_without_a_gpu_sees_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with Campaign(LocalLauncher(LocalConfig()), home, print, target=TARGET) as campaign:
        asked = ((1, 1), (2, 0), (3, 0), (4, None))
        runs = [campaign.submit(make_spec("mlp", seed), Placement(devices=devices)) for seed, devices in asked]
        assert [run.result(120).status for run in runs] == ["finished"] * 4
    assert [line[3:] for line in calls(home)] == [["3"], [], [], ["3"]]


def test_launchers_are_known_by_name() -> None:
    assert isinstance(launchers.build(LocalConfig(jobs=1)), LocalLauncher)
    with pytest.raises(UnknownNameError, match="did you mean 'local'"):
        launchers["locl"]


def test_a_run_is_stopped_early_and_its_worker_serves_the_next(home: Home) -> None:
    events: list[Event] = []
    with Campaign(LocalLauncher(LocalConfig(jobs=1)), home, events.append, target=TARGET) as campaign:
        long = campaign.submit(make_spec("long", note="sleep"))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events))
        long.stop()
        assert long.result(120).status == "stopped"
        assert campaign.submit(make_spec("mlp", 1)).result(120).status == "finished"
    assert len({pid for _, pid, *_ in calls(home)}) == 1


def test_a_run_whose_worker_still_starts_is_stopped_early(home: Home) -> None:
    """The signal that stops a run would end a process that has not set its handlers."""
    launcher, spec = LocalLauncher(LocalConfig(jobs=1)), make_spec("long", note="sleep")
    with Campaign(launcher, home, print, target=TARGET) as campaign:
        long = campaign.submit(spec)
        wait_for(lambda: any(worker.future is not None for worker in launcher._workers))
        long.stop()
        assert long.result(120).status == "stopped"
    assert not run_folder(home, spec.id).stop.exists()


def test_a_request_to_stop_that_comes_when_the_run_ends_is_taken_back(home: Home) -> None:
    future = RunFuture(make_spec(), print)
    future.set_running_or_notify_cancel()
    stop_early(future, home)
    asked = run_folder(home, future.spec.id).stop
    assert asked.exists()
    future.set_result(RunOutcome(future.spec.id, "it", "finished"))
    assert not asked.exists()


def test_a_run_that_has_not_begun_is_cancelled_when_it_is_stopped(home: Home) -> None:
    events: list[Event] = []
    with Campaign(LocalLauncher(LocalConfig(jobs=1)), home, events.append, target=TARGET) as campaign:
        long, queued = campaign.submit(make_spec("long", note="sleep")), campaign.submit(make_spec("mlp", 1))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events))
        queued.stop()
        long.stop()
        assert long.result(120).status == "stopped"
    assert queued.cancelled() and [arm for arm, *_ in calls(home)] == ["long"]


def test_what_is_asked_for_while_all_is_stopped_is_cancelled(home: Home) -> None:
    launcher = LocalLauncher(LocalConfig(jobs=1))
    with Campaign(launcher, home, print, target=TARGET) as campaign:
        launcher.close()
        assert campaign.submit(make_spec()).cancelled()


def test_where_no_worker_can_be_started_nobody_waits_also_who_waited_for_another_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one is asked for by the very thread that hears the workers, as it ends."""

    def full(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(LocalLauncher, "_start_worker", full)
    with Campaign(LocalLauncher(LocalConfig(jobs=1)), home, print, target=TARGET) as campaign:
        for future in [campaign.submit(make_spec(arm, note="same")) for arm in ("first", "waits")]:
            with pytest.raises(OSError, match="temporarily unavailable"):
                future.result(60)


def test_a_worker_that_was_told_to_end_is_given_no_run() -> None:
    """It is there until it has ended: a run that it is given would end with it."""
    launcher, worker = LocalLauncher(LocalConfig(jobs=1)), _Worker.__new__(_Worker)
    ours, theirs = socket.socketpair()
    with theirs:
        worker.places, worker._devices, worker.future, worker.link = (0,), [], None, Connection(ours.detach())
        worker.dismiss()
        launcher._workers, launcher._size, launcher._places = [worker], 1, 1
        future = RunFuture(make_spec(), print)
        launcher._queue.append((future, Placement()))
        launcher._assign()
        assert worker.future is None and not future.running()
        worker.link.close()


def test_more_than_this_machine_has_is_an_error_at_once(home: Home) -> None:
    launcher = LocalLauncher(LocalConfig())
    for placement in (Placement(nodes=2), Placement(devices=64)):
        with pytest.raises(VlmAblateError, match="this machine"):
            launcher.submit(make_spec(), placement)


def test_a_launcher_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; import vlm_ablate.launch.local; assert not {'torch', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_hearer_that_fails_ends_the_command_and_stops_the_runs_at_a_checkpoint(home: Home) -> None:
    """As when the output is a file on a full disk."""
    spec = make_spec("long", note="sleep")

    def full(event: Event) -> None:
        if isinstance(event, StepDone):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run([spec], home, full)
    assert (run_folder(home, spec.id).root / "checkpoint").exists()
