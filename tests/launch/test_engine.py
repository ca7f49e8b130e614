"""Launchers over an engine, here submitit's local executor: runs in processes that share nothing but the home."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.launch.test_local import TARGET, calls, press_ctrl_c_when_training
from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import (
    Checkpointed,
    CurvePoint,
    EvaluationProgress,
    Event,
    Notice,
    Preparing,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StepDone,
)
from vlm_ablate.home import Home
from vlm_ablate.launch.base import LaunchInterrupted, OnEvent, Placement
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import SlurmConfig
from vlm_ablate.launch.engine import EngineLauncher
from vlm_ablate.launch.handover import Handover, HomeNotShared, Listening, Saying, Task, check_home
from vlm_ablate.launch.remote import attend
from vlm_ablate.launch.slurm import SlurmLauncher
from vlm_ablate.launch.wire import from_line, to_line
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.read import read_records

pytest.importorskip("submitit")


def opened(home: Home, on_event: OnEvent, **settings: Any) -> Campaign:
    config = SlurmConfig(executor="local", **settings)
    return Campaign(SlurmLauncher(config), home, on_event, target=TARGET, grace_seconds=120)


def run(specs: Sequence[RunSpec], home: Home, on_event: OnEvent = print, **settings: Any) -> list[RunOutcome]:
    with opened(home, on_event, **settings) as campaign:
        return campaign.run(specs)


def test_runs_come_back_in_order_and_what_goes_wrong_is_told(home: Home) -> None:
    specs = [
        make_spec("mlp", 1), make_spec("dies", note="kill"), make_spec("full", note="raise:storage"),
        make_spec("bug", note="raise:bug"),
    ]  # fmt: skip
    events: list[Event] = []
    outcomes = run(specs, home, events.append, jobs=2, threads=3)
    assert [(o.run, o.name, o.status) for o in outcomes] == [
        (s.id, s.run_name, status) for s, status in zip(specs, ["finished", "failed", "failed", "failed"], strict=True)
    ]
    good, dies, full, bug = outcomes
    assert good.scores == {"vqa": 1.0} and good.trained == ("train",)
    assert "SIGKILL" in dies.message and "about to be killed" in dies.message
    assert full.message.startswith("cannot write there: the disk is full") and bug.message == "ZeroDivisionError: oh"
    for kind in (RunStarted, RunFinished):
        assert [e.run for e in events if isinstance(e, kind)].count(good.run) == 1
        assert {e.run for e in events if isinstance(e, kind)} == {s.id for s in specs}
    assert {threads for _, _, threads, *_ in calls(home)} == {"3"}
    assert {r.arm: r.status for r in read_records(home.tracking_uri, "demo/t01")} == {
        "mlp": "finished", "dies": "failed", "full": "failed", "bug": "failed"}  # fmt: skip
    # Of a launch in which runs failed the folder is kept, with what the jobs printed.
    assert [folder.is_dir() for folder in home.launches.iterdir()] == [True]


def test_one_run_is_stopped_early_and_one_is_never_begun(home: Home) -> None:
    events: list[Event] = []
    with opened(home, events.append, jobs=1) as campaign:
        long, never = campaign.submit(make_spec("long", note="sleep")), campaign.submit(make_spec("mlp", 1))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events))
        never.stop()
        long.stop()
        assert long.result(120).status == "stopped" and never.cancelled()
    assert [arm for arm, *_ in calls(home)] == ["long"]
    assert not any(home.launches.iterdir())


def test_what_is_asked_for_while_all_is_stopped_is_cancelled(home: Home) -> None:
    with opened(home, print, jobs=1) as campaign:
        campaign._launcher.close()
        assert campaign.submit(make_spec()).cancelled()
    assert not calls(home) and not any(home.launches.iterdir())


def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_continues(home: Home) -> None:
    specs = [make_spec("long", note="sleep"), make_spec("never", note="begun")]
    events: list[Event] = []
    threading.Thread(target=press_ctrl_c_when_training, args=(events,)).start()
    with pytest.raises(LaunchInterrupted, match="0 of 2 runs are done"):
        run(specs, home, events.append, jobs=1)
    assert any(isinstance(event, Checkpointed) for event in events)
    assert [(o.status, o.message) for o in run(specs[:1], home)] == [("finished", "continued")]


def test_a_job_that_the_engine_takes_away_leaves_a_checkpoint_and_its_run_goes_on(home: Home) -> None:
    events: list[Event] = []

    def preempt() -> None:
        wait_for(lambda: any(isinstance(event, StepDone) for event in events))
        (computing,) = {int(pid) for _, pid, *_ in calls(home)}
        os.kill(_parent(computing), signal.SIGTERM)

    threading.Thread(target=preempt).start()
    (outcome,) = run([make_spec("long", note="sleep")], home, events.append)
    assert (outcome.status, outcome.message) == ("finished", "continued")
    assert any(isinstance(event, Checkpointed) for event in events)
    assert any("goes on in another" in event.message for event in events if isinstance(event, Notice))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_all_processes_of_a_job_is_one_request(home: Home, number: signal.Signals) -> None:
    """Engines signal a run and its attendant alike; a second request would not wait for the checkpoint."""
    spec = make_spec("long", note="sleep")
    task = _handover(home).task(1, spec)
    heard, said = Listening(task), list[Any]()
    asked = threading.Event()
    ended: list[str] = []
    attendant = threading.Thread(target=lambda: ended.append(attend(task, leave=asked.is_set)))
    attendant.start()
    wait_for(lambda: said.extend(heard()) or any(isinstance(m[-1], StepDone) for m in said))
    ((_, computing, *_),) = calls(home)
    os.kill(int(computing), number)
    asked.set()
    attendant.join(120)
    said.extend(heard())
    assert ended == ["interrupted"] and said[-1] == ("interrupted",)
    assert sum(isinstance(m[-1], Checkpointed) for m in said) == 1
    assert (run_folder(home, spec.id).root / "checkpoint").exists()


def test_a_task_that_was_withdrawn_is_not_begun(home: Home) -> None:
    task = _handover(home).task(1, make_spec("mlp", 1))
    task.withdraw()
    assert attend(task, leave=lambda: False) == "ended" and calls(home) == []


def test_a_machine_that_does_not_see_the_home_says_so(home: Home, tmp_path: Path) -> None:
    handover = _handover(home)
    check_home(str(handover.root), handover.token)
    with pytest.raises(HomeNotShared, match=r"does not see the home: .*No such file"):
        check_home(str(tmp_path / "elsewhere"), handover.token)
    (handover.root / "token").write_text("of another launch")
    with pytest.raises(HomeNotShared, match="same path"):
        check_home(str(handover.root), handover.token)


def test_half_a_line_is_read_when_it_is_whole(home: Home) -> None:
    task = _handover(home).task(1, make_spec("mlp", 1))
    heard = Listening(task)
    Saying(task).send(("begun",))
    (said,) = task.root.glob("said-*")
    line = to_line(("event", StepDone("a", 1, 2, 0.5, 1.0)))
    with said.open("ab") as file:
        file.write(line[:20])
        file.flush()
        assert list(heard()) == [("begun",)]
        file.write(line[20:] + b"not json\n" + to_line(("interrupted",)))
        file.flush()
        assert list(heard()) == [("event", StepDone("a", 1, 2, 0.5, 1.0)), ("interrupted",)]
    assert list(heard()) == []


EVENTS = [
    RunStarted("a", "an arm · seed 0", "an arm", 0, 10, 3),
    Preparing("a", "pictures", 1, 2),
    StageStarted("a", "train", 0, 1, 10),
    StageFinished("a", "train", "0123"),
    CurvePoint("a", 5, {"vqa": 12.5}),
    StepDone("a", 1, 10, float("inf"), 100.0, None),
    Checkpointed("a", 5),
    EvaluationProgress("a", "vqa", 1, 2, True),
    Notice("a", "naïve", "warning"),
    RunFinished("a", "stopped", None, "on request", 1.5, False),
]


def test_every_event_survives_the_way_through_a_file() -> None:
    assert {type(event) for event in EVENTS} == set(Event.__subclasses__())
    outcome = RunOutcome("a", "b", "finished", {"vqa": 1.0}, {"vqa": 0.5}, "", 2.5, False, ("one", "two"))
    for message in [*(("event", event) for event in EVENTS), ("done", outcome), ("died", "killed"), ("begun",)]:
        line = to_line(message)
        assert from_line(line) == message and line.count(b"\n") == 1
    for broken in (b"[]", b"{}", b'{"kind": "event", "type": "Popen", "value": {}}', b'{"kind": "event", "type": []}'):
        with pytest.raises(ValueError):
            from_line(broken)


def test_what_no_machine_has_is_an_error_at_once(home: Home) -> None:
    with opened(home, print) as campaign, pytest.raises(VlmAblateError, match="4 GPUs a run: this machine"):
        campaign.submit(make_spec("mlp", 1), Placement(devices=4))


class Failing:
    """An engine that fails when it is given jobs, or when it is asked which are over."""

    name, jobs, retries, threads, alone, outlive = "failing", None, 3, 1, True, False

    def __init__(self, at: str) -> None:
        self.at = at

    def open(self, handover: Handover) -> None: ...

    def check(self, placement: Placement) -> None: ...

    def start(self, tasks: Sequence[Task], placement: Placement) -> Sequence[Hashable]:
        if self.at == "start":
            raise ConnectionError("no answer")
        return [task.root.name for task in tasks]

    def ended(self, jobs: Iterable[Hashable]) -> Mapping[Hashable, str]:
        raise VlmAblateError("the cluster is gone")

    def cancel(self, jobs: Iterable[Hashable]) -> None: ...

    def close(self) -> None: ...


def test_nobody_waits_for_runs_that_an_engine_did_not_take(home: Home) -> None:
    with Campaign(EngineLauncher(Failing("start")), home, print) as campaign:
        future = campaign.submit(make_spec("mlp", 1))
        with pytest.raises(ConnectionError, match="no answer"):
            future.result(120)


def test_runs_of_an_engine_that_is_gone_are_none_that_failed_by_themselves(home: Home) -> None:
    with Campaign(EngineLauncher(Failing("ended")), home, print) as campaign:
        outcome = campaign.submit(make_spec("mlp", 1)).result(120)
    assert (outcome.status, outcome.died, outcome.message) == ("failed", True, "the cluster is gone")


def _handover(home: Home) -> Handover:
    setup = {"home": str(home.root), "target": TARGET, "tracking_uri": home.tracking_uri, "path": sys.path}
    return Handover.create(home, {**setup, "launcher": "a test", "threads": 1})


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
