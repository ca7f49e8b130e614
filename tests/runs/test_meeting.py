"""A rank that dies before all have met, or never comes: it is named with its machine in seconds, and none is left."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch._C._distributed_c10d import HashStore, TCPStore
from training.squares import make_spec as squares

from runs.forked import MET, Fault, Forked, begin_launch, end_launch, first_rank, follower, other_machine
from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Event, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch import seats
from vlm_ablate.launch.base import Placement, placed
from vlm_ablate.launch.seats import Seat
from vlm_ablate.lease import holder
from vlm_ablate.runs import group, meeting, watch
from vlm_ablate.runs.endings import ending, exit_message
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import RunFolder, run_folder
from vlm_ablate.runs.group import identity
from vlm_ablate.runs.meeting import Meeting, Pulse
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.training.checkpoint import CheckpointFiles

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
HERE = socket.gethostname()


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    found, _ = placed(make_spec(), Placement(devices=4))
    identity(found)  # versions are looked up once for all processes
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, seconds in (
        (watch, "WATCH_SECONDS", 0.05), (watch, "NOTICE_SECONDS", 60.0), (seats, "LOOK_SECONDS", 0.05),
        (seats, "BEAT_SECONDS", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)


class Started:
    """The processes of a test."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec, self.said = folder, spec, folder / "said"
        self.pids = folder / "pids"
        self.pids.mkdir()
        self.processes: list[Forked] = []
        self.seat: Forked | None = None

    def one_machine(
        self, before: Fault = lambda rank: None, between: Fault = lambda rank: None, *,
        meeting: Meeting | None = None, then: Callable[[], None] = lambda: None,
    ) -> Forked:  # fmt: skip
        """Four ranks on this machine; the first one's process."""
        start = follower(self.pids, before, between)
        return self._kept(first_rank(self.spec, Home(self.folder), start, self.said, meeting, then))

    def two_machines(
        self, store: TCPStore, before: Fault = lambda rank: None, starting: Fault = lambda rank: None
    ) -> Forked:
        """The same, of which two are started by a process that stands for another machine."""
        start = follower(self.pids, before, lambda rank: None, starting)
        begin_launch(store)
        self.seat = self._kept(other_machine(Seat(1, 2, 1, "127.0.0.1", store.port), start))
        wait_for(lambda: store.check(["seat/1"]))
        spec, _ = placed(self.spec, Placement(devices=2, nodes=2))
        return self._kept(first_rank(spec, Home(self.folder), start, self.said, Meeting("127.0.0.1", store.port, 2)))

    def ranks(self) -> list[int]:
        return [int(file.read_text() or 0) for file in self.pids.iterdir()]

    def _kept(self, process: Forked) -> Forked:
        self.processes.append(process)
        return process


@pytest.fixture
def started(tmp_path: Path, spec: RunSpec) -> Iterator[Started]:
    made = Started(tmp_path, spec)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.fixture
def store() -> TCPStore:
    """In which machines meet, held open by this process."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=120))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def ended(first: Forked, started: Started, capfd: pytest.CaptureFixture[str]) -> tuple[int | None, str]:
    """Status of the first rank and what it told, soon; the others have ended then."""
    status = first.wait(120)
    assert status is not None, "it waits"
    wait_for(lambda: not any(alive(pid) for pid in started.ranks()))
    return status, started.said.read_text() if started.said.exists() else capfd.readouterr().err


def die(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fail(rank: int) -> None:
    if rank == 1:
        raise RuntimeError("no GPU is free")


def hang(rank: int) -> None:
    if rank == 1:
        time.sleep(60)


def test_ranks_that_start_meet_and_end(started: Started, capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(started.one_machine(), started, capfd) == (0, MET)


@pytest.mark.parametrize(
    ("fault", "told"), [(die, "was ended by SIGKILL"), (fail, "failed: RuntimeError: no GPU is free")]
)
def test_a_rank_that_ends_before_it_has_come_is_an_error(
    started: Started, capfd: pytest.CaptureFixture[str], fault: Fault, told: str
) -> None:
    status, said = ended(started.one_machine(before=fault), started, capfd)
    assert status == 1 and said.startswith(f"rank 1 on {HERE} {told}")


def test_the_checkpoint_of_a_run_whose_ranks_did_not_meet_remains(
    started: Started, parts: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise RuntimeError("one step after a checkpoint")

    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    spec = squares(parts, blind=False, execution={"checkpoint_every": 2})
    assert execute(spec, home=home, reporter=stop).status == "failed"
    (checkpoint,) = home.stages.glob("*/checkpoint-2-*")
    monkeypatch.setattr(group, "start_rank", follower(started.pids, die, lambda rank: None))
    outcome = execute(placed(spec, Placement(devices=2))[0], home=home)
    assert outcome.status == "failed" and outcome.message.startswith(f"rank 1 on {HERE} was ended by SIGKILL")
    assert CheckpointFiles(checkpoint.parent).step() == 2
    assert holder(run_folder(home, spec.id).root) is None and holder(checkpoint.parent) is None
    assert not any(alive(pid) for pid in started.ranks())


@pytest.mark.parametrize(
    ("fault", "told"), [(die, "was ended by SIGKILL"), (fail, "failed: RuntimeError: no GPU is free")]
)
def test_a_first_rank_does_not_wait_for_one_that_ended_before_they_met(
    started: Started, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Fault, told: str
) -> None:
    """It is at the same time in torch's own meeting, which waits for days."""
    monkeypatch.setattr(watch, "NOTICE_SECONDS", 2.0)
    status, said = ended(started.one_machine(between=fault), started, capfd)
    assert status == watch.LEFT_ALONE
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"rank 1 on {HERE} {told}") and last.endswith("wait for it in vain")


def test_a_rank_that_never_comes_is_waited_for_as_long_as_the_message_says(
    started: Started, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MEET_SECONDS", 1.0)
    status, said = ended(started.one_machine(before=hang), started, capfd)
    others = r"(, nor have \d other ranks)?"  # of a busy machine
    assert status == 1 and re.match(rf"rank 1 on {re.escape(HERE)} has not come in 1 s{others}\n  hint: ", said)


def test_ranks_that_do_not_reach_each_other_are_told_so(
    started: Started, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = watch.Watch._late

    def once_all_have_come(self: watch.Watch) -> VlmAblateError | None:
        return late(self) if len(list(started.folder.glob("come-*"))) == 3 else None

    monkeypatch.setattr(watch.Watch, "_late", once_all_have_come)
    monkeypatch.setattr(watch, "MEET_SECONDS", 1.0)
    monkeypatch.setattr(watch, "NOTICE_SECONDS", 2.0)
    status, said = ended(started.one_machine(between=hang), started, capfd)
    assert status == watch.LEFT_ALONE
    assert f"have not reached each other in 1 s: rank 0 on {HERE}, rank 1 on {HERE}" in said
    assert "GLOO_SOCKET_IFNAME" in said


def test_a_slow_rank_of_another_machine_is_waited_for(
    started: Started, store: TCPStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank shows life meanwhile, so that nobody takes it for gone; it may be slow itself."""
    monkeypatch.setattr(meeting, "SILENT_SECONDS", 8.0)
    first = started.two_machines(store, lambda rank: time.sleep(10.0 if rank == 3 else 0))
    assert ended(first, started, capfd) == (0, MET)
    end_launch(store)
    assert started.seat is not None and started.seat.wait(120) == 0


def test_a_rank_of_another_machine_that_dies_early_is_named_with_it(
    started: Started, store: TCPStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    first = started.two_machines(store, lambda rank: os.kill(os.getpid(), signal.SIGKILL) if rank == 3 else None)
    status, said = ended(first, started, capfd)
    assert status == 1 and said.startswith("rank 3 on node1 was ended by SIGKILL")


def test_another_machine_that_is_gone_before_its_ranks_came_is_named(
    started: Started, store: TCPStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SILENT_SECONDS", 5.0)
    first = started.two_machines(store, lambda rank: time.sleep(60 if rank > 1 else 0))
    wait_for(lambda: (started.pids / "3").exists())
    assert started.seat is not None
    started.seat.kill()
    status, said = ended(first, started, capfd)
    assert status == 1 and said.startswith(f"rank 2 on {HERE}: its machine has shown no life")


def test_a_process_that_another_machine_cannot_start_is_told(
    started: Started, store: TCPStore, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(rank: int) -> None:
        if rank > 1:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    first = started.two_machines(store, starting=full)
    status, said = ended(first, started, capfd)
    assert status == 1 and said.startswith(f"rank 2 on {HERE} failed: its process cannot be started: Resource temp")


def test_a_first_rank_that_was_taken_for_gone_hears_it_when_it_goes_on(
    started: Started, store: TCPStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SILENT_SECONDS", 5.0)
    first = started.two_machines(store, lambda rank: time.sleep(60 if rank > 1 else 0))
    wait_for(lambda: (started.pids / "3").exists())
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    wait_for(lambda: store.check(["group/1/failed/2"]))
    os.kill(first.pid, signal.SIGCONT)
    status, said = ended(first, started, capfd)
    assert status == 1 and said.startswith(f"rank 2 on {HERE} failed: it was ended, as rank 0 had shown no life")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Forked, Meeting]]:
    """A meeting point that another process holds open."""
    told = tmp_path / "port"

    def hold() -> int:
        opened = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        told.write_text(f"{opened.port}.")
        time.sleep(120)
        return 0

    process = Forked(hold)
    wait_for(lambda: told.exists() and told.read_text().endswith("."))
    yield process, Meeting("127.0.0.1", int(told.read_text()[:-1]), 1)
    process.kill()


def test_a_meeting_point_that_is_gone_is_an_error(
    started: Started, held: tuple[Forked, Meeting], capfd: pytest.CaptureFixture[str]
) -> None:
    first = started.one_machine(before=hang, meeting=held[1])
    wait_for(lambda: len(started.ranks()) == 3)
    held[0].kill()
    assert ended(first, started, capfd) == (1, "the meeting point of the ranks is gone")


def test_a_first_rank_that_waits_is_ended_with_its_ranks_when_the_meeting_point_is_gone(
    started: Started, held: tuple[Forked, Meeting], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.3)
    first = started.one_machine(meeting=held[1], then=lambda: time.sleep(120))
    wait_for(started.said.exists)
    held[0].kill()
    status, _ = ended(first, started, capfd)
    assert status == watch.LEFT_ALONE and "the meeting point of the ranks is gone" in capfd.readouterr().err


def test_a_process_lives_as_long_as_its_pulse_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(meeting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    store, pulse = HashStore(), Pulse()
    assert not pulse.silent(store, "beat"), "it may not have begun to tell"
    now[0] += meeting.SILENT_SECONDS + 1
    assert pulse.silent(store, "beat")
    store.set("beat", "1")
    assert not pulse.silent(store, "beat")
    now[0] += meeting.SILENT_SECONDS + 1
    assert pulse.silent(store, "beat")


def test_the_end_of_a_process_is_told_whatever_ended_it(tmp_path: Path) -> None:
    assert ending(3) == "exited with status 3" and "out of memory" in ending(-9)
    assert ending(-35) == "was ended by signal 35", "a real-time signal has no name"
    folder = RunFolder(tmp_path)
    folder.output.write_text("one\ntwo\n")
    assert exit_message(-35, folder) == "the worker process was ended by signal 35 (last line of its log: two)"
