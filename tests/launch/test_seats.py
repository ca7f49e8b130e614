"""Processes that were started together: what the environment says, whether they agree, and what Slurm starts."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from tests.tracking.specs import make_spec
from vlm_ablate.cli.launchers import where_to
from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch import seats, slurm
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.configs import LocalConfig, SlurmConfig
from vlm_ablate.launch.handover import Handover, Listening, Task
from vlm_ablate.launch.local import LocalLauncher
from vlm_ablate.launch.seats import Seat, follow, holding
from vlm_ablate.launch.slurm import SlurmEngine
from vlm_ablate.launch.slurm_nodes import seat_of_slurm
from vlm_ablate.runs.meeting import VARIABLE, Meeting
from vlm_ablate.runs.spec import RunSpec

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip


def test_the_environment_says_which_process_this_is() -> None:
    assert Seat.of_environment({}) is None and Seat.of_environment(TORCHRUN | {"WORLD_SIZE": "1"}) is None
    seat = Seat.of_environment(TORCHRUN)
    assert seat == Seat(5, 8, 4, "node0", 29500, hosted=True) and seat.machines == 2
    by_hand = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert Seat.of_environment(by_hand) == Seat(1, 2, 1, "10.0.0.1", 29500)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR=''"),
        ({"RANK": "x"}, "RANK='x'"),
        ({"RANK": "8", "LOCAL_RANK": "0"}, "do not fit: RANK=8"),
        ({"WORLD_SIZE": "6"}, "each machine has as many processes"),
        ({"LOCAL_RANK": "0"}, "do not fit"),
    ],
)
def test_what_the_environment_leaves_open_is_named(changed: dict[str, str], told: str) -> None:
    with pytest.raises(VlmAblateError) as caught:
        Seat.of_environment(TORCHRUN | changed)
    assert told in str(caught.value)


def test_a_command_takes_the_ranks_that_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    where = where_to(together=True)
    assert (where.config, where.placement) == (LocalConfig(jobs=1), Placement(4, 2))
    assert where.seat is not None and where.seat.index == 5
    for options, told in (
        ({}, "this command takes one"),
        ({"together": True, "gpus": 2}, "--devices 2 cannot be had"),
        ({"together": True, "launcher": "ray"}, "--launcher ray cannot be had"),
    ):
        with pytest.raises(VlmAblateError, match=told) as caught:
            where_to(**options)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2


def meet(mine: list[RunSpec], theirs: list[RunSpec], home: Home) -> tuple[list[str], tuple[int, str]]:
    """What the first of two processes meets with, and what the other one gets to hear."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said: list[str] = []

    def first() -> None:
        try:
            with holding(Seat(0, 2, 1, "127.0.0.1", port), mine, home, said.append):
                said.append(str(Meeting.of_environment()))
        except VlmAblateError as error:
            said.append(str(error))

    thread = threading.Thread(target=first)
    thread.start()
    try:
        return said, follow(Seat(1, 2, 1, "127.0.0.1", port), theirs)
    finally:
        thread.join()


def test_processes_that_agree_meet_and_those_that_do_not_say_in_what(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "LOOK_SECONDS", 0.01)
    spec = make_spec("mlp")
    said, ended = meet([spec], [spec], home)
    assert "near" not in said and "seats=2" in said[0] and ended == (0, "")
    assert not list(home.launches.glob("seats-*"))
    evaluation = spec.config.evaluation.model_copy(update={"shots": 7})
    changed = replace(spec, config=spec.config.model_copy(update={"evaluation": evaluation}))
    said, ended = meet([spec], [changed], home)
    shots = spec.config.evaluation.shots
    assert f"config.evaluation.shots is 7, not {shots}" in said[0] and "rank 1 was asked for other runs" in said[0]
    assert ended[0] == 1 and "the same experiment file on every machine" in ended[1]
    assert "other, seed 0 is one of rank 1 only" in meet([spec], [spec, make_spec("other")], home)[0][0]


def test_a_machine_that_does_not_see_the_home_is_told_by_both(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "write_atomically", lambda path, text: None)
    with pytest.raises(VlmAblateError, match="does not see the home"):
        meet([], [], home)


def test_nobody_at_the_meeting_point_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "COME_SECONDS", 1)
    with pytest.raises(VlmAblateError, match=r"the meeting point 127.0.0.1:9 of the ranks does not answer"):
        follow(Seat(1, 2, 1, "127.0.0.1", 9))


def test_a_first_process_that_goes_before_it_has_told_the_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "COME_SECONDS", 3)
    held = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(VlmAblateError, match="rank 0 is gone"):
        follow(Seat(1, 2, 1, "127.0.0.1", held.port))


def test_a_fault_of_the_run_of_one_machine_is_no_word_about_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    handover = Handover.create(home, {"home": str(home.root)})
    task = handover.task(1, make_spec())

    def fail(task: Task, *, leave: Callable[[], bool]) -> str:
        raise StorageError("the share is away")

    monkeypatch.setattr(slurm, "attend", fail)
    monkeypatch.setattr(slurm, "_SIGNALS", ())
    with pytest.raises(StorageError):
        slurm.run_task(str(task.root), str(handover.root), handover.token)
    assert not list(Listening(task)()), "the job is given another try"


def test_several_machines_need_somebody_who_starts_ranks_there(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LocalLauncher(LocalConfig())
    launcher._have = 2
    with pytest.raises(VlmAblateError, match="2 nodes a run: this launcher has this machine only") as caught:
        launcher.submit(make_spec(), Placement(1, 2))
    assert "torchrun" in str(caught.value) and "--launcher slurm" in str(caught.value)
    monkeypatch.setenv(VARIABLE, Meeting("node0", 29500, 2).to_text())
    assert not launcher.submit(make_spec(), Placement(1, 2)).done()


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "3", "SLURM_PROCID": "2",
         "SLURM_JOB_NODELIST": "gpu[07-08],big12"}  # fmt: skip


def test_a_job_of_several_machines_meets_on_the_first(tmp_path: Path) -> None:
    assert seat_of_slurm({}) is None and seat_of_slurm(SLURM | {"SLURM_JOB_NUM_NODES": "1"}) is None
    assert seat_of_slurm(SLURM) == Seat(2, 3, 1, "gpu07", 24_711)
    for names, first in (("n1,n2", "n1"), ("n-3-[1,5]", "n-3-1"), ("a[001-003]b", "a001b"), ("solo", "solo")):
        seat = seat_of_slurm(SLURM | {"SLURM_JOB_NODELIST": names})
        assert seat is not None and seat.address == first


def test_slurm_is_asked_for_one_process_a_machine_with_all_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit")
    srun = tmp_path / "bin" / "srun"  # submitit looks whether it is there, and here it may not be
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    engine = SlurmEngine(SlurmConfig(partition="gpu", cpus=32))
    asked = Placement(devices=8, nodes=2)
    cluster: Any = SimpleNamespace(gpus=lambda placement: placement.devices, minutes=60, array_size=1001)
    engine._slurm = cluster
    executor = submitit.AutoExecutor(tmp_path, cluster="slurm")
    executor.update_parameters(**engine.parameters(asked))
    script = executor._executor._make_submission_file_text("true", "uid")
    for line in ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=32", "--partition=gpu"):
        assert f"#SBATCH {line}" in script, script
    assert "srun " in script
