"""Processes that were started together to train runs together: by torchrun, by Slurm on each machine, or by hand.

Each has a seat. The first one has the runs, as it would have alone: it or a process of its own is the first rank of
each. The others start the ranks that belong to them, for one run after the other, and end when the first one does.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch.handover import check_home
from vlm_ablate.runs.meeting import (
    BEAT,
    ENDED,
    GROUPS,
    SILENT_SECONDS,
    VARIABLE,
    Meeting,
    Pulse,
    beat_name,
    failed_name,
    gone_name,
    group_name,
    machine_name,
)
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import storage_errors, write_atomically

COME_SECONDS = 600.0
"""How long the others may take to come: machines do not start at the same moment."""
LEAVE_SECONDS = 10.0
LOOK_SECONDS = 0.2
BEAT_SECONDS = 2.0
GRACE_SECONDS = 30.0
_OVER, _HOME = "over", "home"
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Seat:
    """One of the processes that were started together."""

    index: int
    count: int
    per_machine: int
    address: str
    port: int
    hosted: bool = False
    """Whether torchrun holds the store open; else the first one does."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Seat | None:
        """As torchrun tells it, or who starts processes with the same variables; None: this process is alone.

        Raises:
            VlmAblateError: the variables do not say it.
        """
        if environment.get("WORLD_SIZE", "1") == "1":
            return None
        given = {name: environment.get(name, "") for name in (*_NAMES, "MASTER_PORT")}
        given |= {name: given[name] or usual for name, usual in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))}
        address = environment.get("MASTER_ADDR", "")
        wrong = [f"{name}={value!r}" for name, value in given.items() if not value.isdecimal()]
        if wrong or not address:
            told = ", ".join([*wrong, *(["MASTER_ADDR=''"] if not address else [])])
            raise VlmAblateError(
                f"WORLD_SIZE={given['WORLD_SIZE']!r} says that several processes train together, and {told}",
                hint="torchrun sets all of these; by hand set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and with"
                " several processes on a machine LOCAL_RANK and LOCAL_WORLD_SIZE; or unset WORLD_SIZE",
            )
        rank, world, local, machine = (int(given[name]) for name in _NAMES)
        if not rank < world or not local < machine or world % machine or rank % machine != local:
            told = ", ".join(f"{name}={given[name]}" for name in _NAMES)
            raise VlmAblateError(
                f"these do not fit: {told}",
                hint="each machine has as many processes, and their ranks follow on each other:"
                " torchrun --nnodes N --nproc-per-node M",
            )
        hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(rank, world, machine, address, int(given["MASTER_PORT"]), hosted)

    @property
    def machines(self) -> int:
        """How many there are."""
        return self.count // self.per_machine

    @property
    def meeting(self) -> Meeting:
        """Where they meet."""
        return Meeting(self.address, self.port, self.count)


@contextmanager
def holding(seat: Seat | None, specs: Sequence[RunSpec], home: Home, notice: Callable[[str], None]) -> Iterator[None]:
    """For the first one: within the block the others are there, and runs find them. None: it is alone.

    Args:
        specs: what it was asked to run; none where it is told by somebody else.
        notice: hears that others are waited for.

    Raises:
        VlmAblateError: they do not come, do not see the home, or differ in what they were asked for or what they are.
    """
    if seat is None:
        yield
        return
    store = seat.meeting.store(timedelta(seconds=COME_SECONDS), host=not seat.hosted)
    token, status = secrets.token_hex(16), 1
    shown = home.launches / f"seats-{token[:8]}"
    try:
        with storage_errors("create", shown):
            shown.mkdir(parents=True)
        write_atomically(shown / "token", token)
        store.set(_HOME, json.dumps([str(shown), token]))
        _welcome(store, seat, specs, notice)
        os.environ[VARIABLE] = seat.meeting.to_text()
        yield
        status = 0
    except VlmAblateError as error:
        store.set(_OVER, json.dumps([error.exit_code, str(error)]))
        raise
    finally:
        os.environ.pop(VARIABLE, None)
        if not store.check([_OVER]):
            store.set(_OVER, json.dumps([status, ""]))
        until = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < until and not store.check([f"left/{n}" for n in range(1, seat.count)]):
            time.sleep(LOOK_SECONDS)
        shutil.rmtree(shown, ignore_errors=True)


def _welcome(store: Any, seat: Seat, specs: Sequence[RunSpec], notice: Callable[[str], None]) -> None:
    from vlm_ablate.runs.group import disagreement

    began, told = time.monotonic(), False
    while missing := [n for n in range(1, seat.count) if not store.check([f"seat/{n}"])]:
        waited = time.monotonic() - began
        if waited > COME_SECONDS:
            raise VlmAblateError(
                f"of {seat.count} processes that train together, {len(missing)} have not come in {waited:.0f} s: "
                + ", ".join(f"rank {n}" for n in missing[:8]),
                hint=f"each machine has to reach {seat.address}:{seat.port}; see the output of the others",
            )
        if not told and waited > 3:
            told = True
            notice(f"waits for {len(missing)} of {seat.count} processes that are to train together")
        time.sleep(LOOK_SECONDS)
    mine, others = _told(specs), {n: json.loads(store.get(f"seat/{n}")) for n in range(1, seat.count)}
    for number, theirs in others.items():
        if theirs.get("problem"):
            raise VlmAblateError(f"rank {number}: {theirs['problem']}")
    if problem := disagreement(mine["is"], {n: theirs["is"] for n, theirs in others.items()}):
        raise problem
    for number, theirs in others.items():
        unlike = sorted({*mine["runs"]} ^ {*theirs["runs"]})
        told_of = f"{unlike[0]} is one of rank {number if unlike[0] in theirs['runs'] else 0} only" if unlike else None
        if difference := told_of or _difference(mine["runs"], theirs["runs"]):
            raise VlmAblateError(
                f"rank {number} was asked for other runs than rank 0: {difference}",
                hint="start the same command with the same experiment file on every machine",
            )


def _told(specs: Sequence[RunSpec], problem: str | None = None) -> dict[str, Any]:
    from vlm_ablate.runs.group import installation

    runs = {f"{spec.arm}, seed {spec.seed}": spec.to_dict() for spec in specs}
    return {"is": installation(), "runs": json.loads(json.dumps(runs)), "problem": problem}


def _difference(mine: Any, theirs: Any, at: str = "") -> str | None:
    """The first value in which two nested mappings differ."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return None if mine == theirs else f"{at.removeprefix('.')} is {theirs!r}, not {mine!r}"
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        if found := _difference(mine.get(name), theirs.get(name), f"{at}.{name}"):
            return found
    return None


def follow(seat: Seat, specs: Sequence[RunSpec] = (), *, check: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """For the others: start this seat's ranks of each run, until the first one has ended.

    Args:
        specs: what this process was asked to run.
        check: of this machine; an error of it is told to the first one.

    Returns:
        The exit status, and the error of the first one, if that is why.

    Raises:
        VlmAblateError: the first one cannot be reached, or is gone.
    """
    store = seat.meeting.store(timedelta(seconds=COME_SECONDS))
    try:
        try:
            check()
            check_home(*json.loads(store.get(_HOME)))
        except VlmAblateError as error:
            store.set(f"seat/{seat.index}", json.dumps(_told(specs, str(error))))
            raise
        store.set(machine_name(seat.index), socket.gethostname())
        store.set(f"seat/{seat.index}", json.dumps(_told(specs)))
        return _start_ranks(seat, store)
    except RuntimeError as error:  # torch's, of a store that is gone
        raise VlmAblateError(
            f"rank 0 is gone: {str(error).splitlines()[0][:200]}",
            hint="the same command goes on from the last checkpoint",
        ) from error


def _start_ranks(seat: Seat, store: Any) -> tuple[int, str]:
    ranks = _Ranks(seat, store)
    kept = {number: signal.signal(number, ranks.pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        while not store.check([_OVER]):
            ranks.look()
            time.sleep(LOOK_SECONDS)
        status, message = json.loads(store.get(_OVER))
        ranks.end(GRACE_SECONDS)
        store.set(f"left/{seat.index}", "")
        return int(status), str(message)
    finally:
        ranks.end()
        for number, handler in kept.items():
            signal.signal(number, handler)


class _Ranks:
    """The ranks of one seat, of the newest group."""

    def __init__(self, seat: Seat, store: Any) -> None:
        self._seat, self._store = seat, store
        self._group = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._told: set[int] = set()
        self._passed_on = False
        self._beats, self._beaten = 0, 0.0
        self._first = Pulse()
        """Of the group's first rank."""

    def look(self) -> None:
        """Start what is to be started, tell what has ended, end what nobody waits for."""
        self._beat()
        newest = self._store.add(GROUPS, 0)
        if newest > self._group and self._store.check([f"{group_name(newest)}/setup"]):
            self.end()
            self._group = newest
            self._start(json.loads(self._store.get(f"{group_name(newest)}/setup")))
        for rank, process in self._processes.items():
            if process.poll() not in (None, 0) and rank not in self._told:
                self._told.add(rank)
                self._store.set(f"{group_name(self._group)}/{gone_name(rank)}", str(process.returncode))
        name = group_name(self._group)
        if self._processes and self._store.check([f"{name}/{ENDED}"]):
            self.end()
        elif self._processes and self._first.silent(self._store, f"{name}/{BEAT}"):
            for rank in self._processes:  # it may be suspended, and go on
                self._fail(rank, f"it was ended, as rank 0 had shown no life for {SILENT_SECONDS:.0f} s")
            self.end()

    def pass_on(self, number: int, frame: Any) -> None:
        """A signal that this process got is meant for the run: it stops with a checkpoint, on all ranks."""
        if not self._passed_on:
            self._passed_on = True
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

    def end(self, grace: float = 0.0) -> None:
        """End all, once they have had time to leave by themselves."""
        until = time.monotonic() + grace
        while time.monotonic() < until and any(process.poll() is None for process in self._processes.values()):
            time.sleep(LOOK_SECONDS)
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        self._processes.clear()
        self._told.clear()

    def _start(self, setup: Mapping[str, Any]) -> None:
        from vlm_ablate.runs.group import start_rank

        here = setup["world"] // self._seat.count
        for rank in range(self._seat.index * here, (self._seat.index + 1) * here):
            place = (rank, setup["world"], setup["devices"])
            try:
                self._processes[rank] = start_rank(self._seat.meeting, group_name(self._group), *place, apart=True)
            except OSError as error:
                self._fail(rank, f"its process cannot be started: {error.strerror}")
        self._first = Pulse()

    def _fail(self, rank: int, message: str) -> None:
        """Tell the first rank why one of these is gone."""
        told = json.dumps({"reason": True, "message": message})
        self._store.set(f"{group_name(self._group)}/{failed_name(rank)}", told)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beats, self._beaten = self._beats + 1, time.monotonic()
            self._store.set(beat_name(self._seat.index), str(self._beats))
