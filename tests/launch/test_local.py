"""The local launcher: workers that serve many runs, die, are interrupted, and never lose what is finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.tracking.specs import make_spec
from vlm_ablate.cli.run import launch
from vlm_ablate.errors import StorageError, TrackingError, UnknownNameError
from vlm_ablate.events import Checkpointed, Event, RunFinished, RunStarted, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch import Interrupted, devices, launcher
from vlm_ablate.launch.local import LocalLauncher
from vlm_ablate.tracking.records import read_records

TARGET = "tests.launch.targets:execute"


def local(**options: object) -> LocalLauncher:
    return LocalLauncher(target=TARGET, **options)  # type: ignore[arg-type]


def calls(home: Home) -> list[list[str]]:
    path = home.root / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_runs_are_spread_over_workers_and_come_back_in_order(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    events: list[Event] = []
    specs = [make_spec("mlp", seed) for seed in range(6)]
    outcomes = local(jobs=2).run(specs, home, events.append)
    assert [(o.run, o.name, o.status, o.scores) for o in outcomes] == [
        (s.hash, s.run_name, "finished", {"vqa": float(s.seed)}) for s in specs
    ]
    served = calls(home)
    assert len(served) == 6 and len({pid for _, pid, *_ in served}) == 2
    assert {threads for _, _, threads, _ in served} == {"1"}
    for kind in (RunStarted, StepDone, RunFinished):
        assert {e.run for e in events if isinstance(e, kind)} == {s.hash for s in specs}
    assert (home.run(specs[0].hash).root / "log.txt").exists()


def test_threads_of_the_command_line_reach_the_workers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_ablate.launch.local.LocalLauncher", partial(LocalLauncher, target=TARGET))
    launch([make_spec("mlp", 1)], home, home.tracking_uri, 1, 3)
    assert [threads for _, _, threads, _ in calls(home)] == ["3"]


def test_what_is_finished_is_reported_without_starting_a_worker(home: Home) -> None:
    specs = [make_spec("mlp", 1), make_spec("elsewhere", 1, experiment="demo/t02", note="mlp")]
    local(jobs=1).run(specs[:1], home, lambda event: None)
    events: list[Event] = []
    outcomes = LocalLauncher(target="no.such.module:execute").run(specs, home, events.append)
    assert [(o.status, o.scores, o.reused) for o in outcomes] == [("finished", {"vqa": 1.0}, True)] * 2
    assert [e.reused for e in events if isinstance(e, RunFinished)] == [True, True]
    assert len(calls(home)) == 1
    assert len(read_records(home.tracking_uri, "demo/t02")) == 1


def test_specs_with_one_hash_are_run_once_and_recorded_for_each(home: Home) -> None:
    specs = [make_spec("a", 3, note="same"), make_spec("b", 3, note="same")]
    assert specs[0].hash == specs[1].hash
    outcomes = local(jobs=2).run(specs, home, lambda event: None)
    assert [(o.name, o.status, o.mean) for o in outcomes] == [(s.run_name, "finished", 3.0) for s in specs]
    assert [arm for arm, *_ in calls(home)] == ["a"]
    assert {r.arm: r.scores for r in read_records(home.tracking_uri, "demo/t01")} == {
        arm: [{"column": "vqa", "score": 3.0, "blind": False}] for arm in "ab"
    }


def test_a_worker_that_dies_fails_its_run_and_the_rest_goes_on(home: Home) -> None:
    specs = [make_spec("dies", note="kill"), make_spec("leaves", note="exit"), make_spec("mlp", 1), make_spec("mlp", 2)]
    events: list[Event] = []
    outcomes = local(jobs=1).run(specs, home, events.append)
    assert [o.status for o in outcomes] == ["failed", "failed", "finished", "finished"]
    assert "SIGKILL" in outcomes[0].message and "about to be killed" in outcomes[0].message
    assert "status 3" in outcomes[1].message
    assert [e.status for e in events if isinstance(e, RunFinished)] == ["failed", "failed", "finished", "finished"]
    records = {r.arm: r for r in read_records(home.tracking_uri, "demo/t01")}
    assert records["dies"].status == "failed" and "SIGKILL" in records["dies"].message
    # What failed is tried again by the next command; what finished is not.
    again = local(jobs=1).run(specs, home, lambda event: None)
    assert [(o.status, o.reused) for o in again[2:]] == [("finished", True)] * 2
    assert [arm for arm, *_ in calls(home)].count("dies") == 2


def test_a_run_that_raises_is_a_failed_outcome_with_one_clear_message(home: Home) -> None:
    specs = [make_spec("full", note="raise:storage"), make_spec("bug", note="raise:bug"), make_spec("mlp", 1)]
    full, bug, mlp = local(jobs=1).run(specs, home, lambda event: None)
    assert (full.status, bug.status, mlp.status) == ("failed", "failed", "finished")
    assert full.message.startswith("cannot write there: the disk is full")
    assert bug.message == "ZeroDivisionError: oh"
    assert "Traceback" in (home.run(bug.run).root / "log.txt").read_text()
    assert len({pid for _, pid, *_ in calls(home)}) == 1
    assert {r.arm: r.status for r in read_records(home.tracking_uri, "demo/t01")} == {
        "full": "failed", "bug": "failed", "mlp": "finished"}  # fmt: skip


def press_ctrl_c_when_training(events: list[Event]) -> None:
    for _ in range(600):
        if any(isinstance(event, StepDone) for event in events):
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.05)


def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_continues(home: Home) -> None:
    specs = [make_spec("mlp", 1), make_spec("long", note="sleep"), make_spec("never", note="begun")]
    local(jobs=1).run(specs[:1], home, lambda event: None)
    events: list[Event] = []
    threading.Thread(target=press_ctrl_c_when_training, args=(events,)).start()
    with pytest.raises(Interrupted, match="1 of 3 runs are done") as caught:
        local(jobs=1).run(specs, home, events.append)
    assert [o.name for o in caught.value.outcomes] == [specs[0].run_name] and caught.value.exit_code == 130
    assert any(isinstance(event, Checkpointed) for event in events)
    assert [o.status for o in local(jobs=1).run(specs, home, lambda event: None)] == ["finished"] * 3
    assert [o.message for o in local(jobs=1).run(specs[1:2], home, lambda event: None)] == ["continued"]


def test_a_run_that_does_not_stop_in_time_is_killed(home: Home) -> None:
    events: list[Event] = []
    threading.Thread(target=press_ctrl_c_when_training, args=(events,)).start()
    started = time.monotonic()
    with pytest.raises(Interrupted, match="1 did not stop in time"):
        local(jobs=1, grace_seconds=1).run([make_spec("long", note="sleep:stubborn")], home, events.append)
    assert time.monotonic() - started < 15


def test_workers_stop_when_their_parent_is_killed(home: Home, tmp_path: Path) -> None:
    spec = make_spec("long", note="sleep")
    code = (
        "from pathlib import Path; from tests.tracking.specs import make_spec; from vlm_ablate.home import Home; "
        "from vlm_ablate.launch.local import LocalLauncher; "
        f"launcher, home = LocalLauncher(target={TARGET!r}, jobs=1), Home(Path({str(home.root)!r})); "
        "launcher.run([make_spec('long', note='sleep')], home, print)"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    while "StepDone" not in parent.stdout.readline():
        pass
    parent.kill()
    parent.wait()
    checkpoint = home.run(spec.hash).root / "checkpoint"
    for _ in range(100):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    assert checkpoint.exists()


def test_a_store_or_folder_that_cannot_be_used_is_an_error_before_anything_starts(home: Home, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not answer"):
        local(tracking_uri="http://127.0.0.1:9").run([make_spec()], home, lambda event: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        local().run([make_spec()], Home(tmp_path / "file" / "home"), lambda event: None)
    assert calls(home) == []


def test_each_worker_gets_one_gpu(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    local().run([make_spec("mlp", seed) for seed in range(4)], home, lambda event: None)
    served = calls(home)
    assert {gpu for *_, gpu in served} == {"3", "5"}
    assert len({(pid, gpu) for _, pid, _, gpu in served}) == 2


@pytest.mark.parametrize(
    ("value", "ids"), [("", []), ("-1", []), ("0", ["0"]), ("1, 2", ["1", "2"]), ("0,-1,1", ["0"])]
)
def test_visible_gpus_follow_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, ids: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.gpus() == ids


def test_launchers_are_known_by_name() -> None:
    assert isinstance(launcher("local", jobs=1), LocalLauncher)
    with pytest.raises(UnknownNameError, match="did you mean 'local'"):
        launcher("locl")


def test_a_launcher_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; import vlm_ablate.launch.local; assert not {'torch', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
