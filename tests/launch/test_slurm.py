"""The Slurm launcher against a real Slurm of one node, where there is one (`apt-get install slurm-wlm munge`)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.launch.slurm_cluster import missing, slurm
from tests.launch.test_local import TARGET, calls
from tests.runs.disk import write_log
from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Checkpointed, Event, RunFinished, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import SlurmConfig
from vlm_ablate.launch.handover import Handover, Listening
from vlm_ablate.launch.slurm import _SIGNALS, IDLE_JOBS, ProcessEngine, SlurmEngine, SlurmLauncher, run_task
from vlm_ablate.launch.slurm_nodes import _array_size, _gpus, _minutes
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec

pytest.importorskip("submitit")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if why := missing():
        pytest.skip(why)
    with slurm(tmp_path_factory.mktemp("slurm")):
        yield


def opened(home: Home, on_event: Callable[[Event], None] = print, **settings: Any) -> Campaign:
    return Campaign(SlurmLauncher(SlurmConfig(**settings)), home, on_event, target=TARGET, grace_seconds=20)


def run(specs: Sequence[RunSpec], home: Home, on_event: Callable[[Event], None] = print) -> list[RunOutcome]:
    with opened(home, on_event, mem="100M") as campaign:
        return campaign.run(specs)


@pytest.mark.usefixtures("cluster")
def test_runs_are_elements_of_one_array(home: Home) -> None:
    specs = [make_spec("mlp", 1), make_spec("mlp", 2), make_spec("dies", note="kill")]
    events: list[Event] = []
    outcomes = run(specs, home, events.append)
    assert [o.status for o in outcomes] == ["finished", "finished", "failed"] and "SIGKILL" in outcomes[2].message
    assert [outcome.scores for outcome in outcomes[:2]] == [{"vqa": 1.0}, {"vqa": 2.0}]
    listed = _slurm("squeue", "--noheader", "--states=all", "--array", "--name=vlm-ablate", "--format=%F").splitlines()
    assert len(listed) == 3 and len({*listed}) == 1
    assert [e.status for e in events if isinstance(e, RunFinished)].count("finished") == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("how", ["requeue", "preempt"])
def test_a_job_that_slurm_takes_back_goes_on_from_its_checkpoint(home: Home, how: str) -> None:
    events: list[Event] = []

    def take_back() -> None:
        wait_for(lambda: any(isinstance(event, StepDone) for event in events), 180)
        if how == "requeue":
            _slurm("scontrol", "requeue", _slurm("squeue", "--noheader", "--states=RUNNING", "--format=%A").strip())
        else:
            _slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3")

    threading.Thread(target=take_back).start()
    (outcome,) = run([make_spec("long", note="sleep")], home, events.append)
    assert (outcome.status, outcome.message) == ("finished", "continued")
    assert sum(isinstance(event, Checkpointed) for event in events) == 1
    assert len(calls(home)) == 2
    assert "goes on in another" not in str(events)  # it is the same job, back in the queue


@pytest.mark.usefixtures("cluster")
def test_a_run_is_stopped_early_and_what_waits_is_cancelled(home: Home) -> None:
    events: list[Event] = []
    with opened(home, events.append, cpus=2) as campaign:  # one at a time
        long, waits = campaign.submit(make_spec("long", note="sleep")), campaign.submit(make_spec("mlp", 1))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events), 180)
        waits.stop()
        long.stop()
        assert long.result(120).status == "stopped" and waits.cancelled()
    assert [arm for arm, *_ in calls(home)] == ["long"]


@pytest.mark.usefixtures("cluster")
def test_jobs_of_a_command_that_was_killed_are_waited_for_by_the_next(home: Home) -> None:
    command = [sys.executable, "-m", "tests.launch.slurm_command", str(home.root)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as parent:
        try:
            wait_for(lambda: (home.root / "calls.txt").exists(), 180)
        finally:
            parent.kill()
    submitted, events = _jobs(), list[Event]()
    with opened(home, events.append) as campaign:
        long = campaign.submit(make_spec("long", note="sleep"))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events), 180)
        assert _jobs() == submitted and "of an earlier command" in str(events)
        long.stop()
        assert long.result(120).status == "stopped"
    assert len(calls(home)) == 1 and not any(home.launches.iterdir())


@pytest.mark.usefixtures("cluster")
def test_what_slurm_cannot_give_is_an_error_before_any_run(home: Home, tmp_path: Path) -> None:
    for settings, placement, told in (
        ({"partition": "hihg"}, Placement(), "no partition 'hihg'\n.*did you mean 'high'"),
        ({"account": "nobody", "constraint": "a100"}, Placement(), "Slurm refuses: .*feature"),
        ({"mem": "50G"}, Placement(), "Slurm refuses: .*not available"),
        ({"time": 90}, Placement(), "a job of 90 min: the partition allows 60 min"),
        ({}, Placement(devices=2), "asks for 2 GPUs, and the most that a Slurm node has is 0"),
        ({}, Placement(nodes=2), "Slurm refuses: .*"),
    ):
        with pytest.raises(VlmAblateError) as caught, opened(home, **settings) as campaign:  # type: ignore[arg-type]
            campaign.run([make_spec("mlp", 1)], placement)
        assert re.search(told, str(caught.value)), caught.value
    assert calls(home) == []


def test_without_slurm_it_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(VlmAblateError, match="no part of a Slurm cluster"), opened(home):
        pass


def test_a_run_whose_jobs_leave_nothing_does_not_go_back_into_the_queue_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's limit may be shorter than what it takes to the first checkpoint."""
    spec = make_spec("mlp", 1)
    stage = write_log(spec, home, [])
    setup = {"home": str(home.root), "target": TARGET, "tracking_uri": home.tracking_uri, "path": sys.path}
    handover = Handover.create(home, {**setup, "launcher": "slurm", "threads": 1})
    task, requeued = handover.task(1, spec), list[int]()

    def limit(*arguments: Any, **options: Any) -> str:
        os.kill(os.getpid(), signal.SIGUSR2)
        return "interrupted"

    monkeypatch.setattr("vlm_ablate.launch.slurm.attend", limit)
    monkeypatch.setattr("vlm_ablate.launch.slurm._requeue", lambda: requeued.append(1))
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for job in range(2 * IDLE_JOBS):
            run_task(str(task.root), str(handover.root), handover.token)
            if job == IDLE_JOBS - 1:
                (stage.root / "checkpoint-3-x.ckpt").touch()
        assert len(requeued) == 2 * IDLE_JOBS and list(Listening(task)()) == []
        run_task(str(task.root), str(handover.root), handover.token)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    ((kind, why),) = Listening(task)()
    assert kind == "died" and "give a job more time" in why and len(requeued) == 2 * IDLE_JOBS


def test_jobs_of_this_machine_have_a_gpu_each_of_those_that_the_command_may_use(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit gives `0` to each of them, whatever the command itself was given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,MIG-b")
    with opened(home, executor="local") as campaign:
        outcomes = campaign.run([make_spec("mlp", seed) for seed in range(3)])
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    assert {gpu for *_, gpu in calls(home)} == {"5", "MIG-b"}


def test_no_gpu_of_this_machine_has_two_jobs_while_another_has_none(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    handover = Handover.create(home, {})
    tasks = [handover.task(number, make_spec("mlp", number)) for number in range(6)]
    engine = ProcessEngine(SlurmConfig(executor="local"))
    engine.open(handover)
    engine.check(Placement())
    assert engine.jobs == 3
    engine.parameters(Placement())
    assert [engine.more(task) for task in tasks[:3]] == [("5",), ("6",), ("7",)]
    tasks[1].withdraw()
    assert engine.more(tasks[3]) == ("6",)
    for task in tasks[0], tasks[2]:
        task.withdraw()
    engine.check(Placement(devices=2))
    assert engine.jobs == 1
    engine.parameters(Placement(devices=2))
    assert engine.more(tasks[4]) == ("5,7",)
    engine.parameters(Placement(devices=0))
    assert engine.more(tasks[5]) == ("",)


def test_jobs_of_this_machine_take_no_part_in_an_allocation_that_the_command_runs_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for its other machines, and put it, which is not theirs, back into the queue."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    with opened(home, executor="local", retries=0) as campaign:
        (outcome,) = campaign.run([make_spec("mlp", 1)])
    assert outcome.status == "finished", outcome.message
    task = Handover.create(home, {"home": str(home.root), "launcher": "slurm", "threads": 1}).task(1, make_spec("long"))
    requeued, root = list[int](), task.root.parents[1]

    def limit(*arguments: Any, **options: Any) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "interrupted"

    monkeypatch.setattr("vlm_ablate.launch.slurm.attend", limit)
    monkeypatch.setattr("vlm_ablate.launch.slurm._requeue", lambda: requeued.append(1))
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        run_task(str(task.root), str(root), (root / "token").read_text(), "")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not requeued


def test_more_runs_than_an_array_may_have_are_several_arrays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm refuses an array whose last index reaches its MaxArraySize, 1001 where nobody has changed it."""
    arrays, shares, cancelled = list[int](), list[int](), list[str]()

    def start(self: Any, tasks: Sequence[int], placement: Placement) -> list[str]:
        if len(arrays) == 3:
            raise VlmAblateError("no more")
        arrays.append(len(tasks))
        shares.append(self.parameters(placement)["slurm_array_parallelism"])
        return [f"{len(arrays)}_{n}" for n in range(len(tasks))]

    monkeypatch.setattr("vlm_ablate.launch.slurm._Submitted.start", start)
    engine, tasks = SlurmEngine(SlurmConfig()), list[Any](range(2500))
    cluster: Any = SimpleNamespace(array_size=1001, cancel=cancelled.extend, gpus=lambda placement: 0, minutes=60)
    engine._slurm = cluster
    assert engine.parameters(Placement())["slurm_array_parallelism"] == 1001  # not the 256 of submitit
    assert len({*engine.start(tasks, Placement())}) == 2500 and arrays == [1001, 1001, 498]
    arrays.clear()
    limited = SlurmEngine(SlurmConfig(jobs=9))
    limited._slurm = cluster
    limited.start(tasks, Placement())
    assert shares == [1001, 1001, 1001, 3, 3, 3], "what --jobs allows at a time is shared by the arrays"
    arrays[:] = [0]
    with pytest.raises(VlmAblateError, match="no more"):
        engine.start(tasks, Placement())
    assert len(cancelled) == 2002
    monkeypatch.setattr("vlm_ablate.launch.slurm_nodes._answer", lambda command: "MaxArraySize            = 4001\n")
    assert _array_size() == 4001


def test_what_sinfo_tells_of_nodes_is_read() -> None:
    assert [_gpus(text) for text in ("(null)", "gpu:8", "gpu:a100:4(S:0-1)", "gpu:a100:4,gpu:v100:2", "shard:8")] == [
        0, 8, 4, 6, 0]  # fmt: skip
    assert [_minutes(text) for text in ("1:00:00", "2-00:00:00", "30:00", "infinite")] == [60, 2880, 30, float("inf")]


def _jobs() -> set[str]:
    return {*_slurm("squeue", "--noheader", "--states=all", "--array", "--name=vlm-ablate", "--format=%i").split()}


def _slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
