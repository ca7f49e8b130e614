"""The ranks of one run: the process that has the run is the first, and starts the others, which follow it.

The first holds the leases, records and reports. The others (`follow.py`) hear of it, through a store, which stage to
train, from which weights; they train in step with it and say nothing. The ranks of other machines are started by
processes there (`launch/seats.py`), which see in the store at which they have met (`meeting.py`) that there is a group.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.provenance import code_digest, library_versions
from vlm_ablate.runs.endings import ending
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.meeting import BEAT, ENDED, GROUPS, Meeting, Pulse, beat_name, gone_name, group_name
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.training.ranks import PATIENCE, Place, Ranks

SETUP, END = "setup", "end"
LOOK_SECONDS = 0.05
WATCH_SECONDS = 1.0
GRACE_SECONDS = 30.0
"""How long ranks may take to leave, and the first one to notice that another is gone."""
LEFT_ALONE = 70
"""Exit status of a first rank that waited for one that is gone."""
CONFIGURATION, CODE = "configuration", "code of vlm_ablate"
_HINTS = {
    CONFIGURATION: "all ranks need the same experiment file, options, plug-ins and files that these name",
    CODE: "install the same revision of vlm_ablate for all ranks, and do not change its files while a run starts",
}
_SAME_LIBRARIES = "install the same versions of all libraries for all ranks: pip freeze shows them"


def identity(spec: RunSpec) -> dict[str, str]:
    """What ranks must agree in, each part as it is told: configuration and seeds, code, versions of libraries."""
    whole = {"spec": spec.to_dict(), "keys": [key.key for key in spec.stage_keys]}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return {CONFIGURATION: digest[:16], **installation()}


def installation() -> dict[str, str]:
    """What machines must agree in."""
    versions = {f"version of {name}": number for name, number in sorted(library_versions().items())}
    return {CODE: code_digest(), **versions}


def disagreement(mine: Mapping[str, str], others: Mapping[int, Mapping[str, str]]) -> VlmAblateError | None:
    """In what another rank differs from the first, and what is to be changed; None: in nothing."""
    for rank, theirs in sorted(others.items()):
        # What makes other parts differ is told before them.
        for what in sorted({*mine, *theirs}, key=lambda name: (name == CONFIGURATION, name != CODE, name)):
            here, there = mine.get(what, "none"), theirs.get(what, "none")
            if here != there:
                told = f"rank {rank} differs from rank 0 in its {what}: {there!r}, not {here!r}"
                return VlmAblateError(told, hint=_HINTS.get(what, _SAME_LIBRARIES))
    return None


class Group:
    """All ranks of a run, as the first one holds them; of a run on one device, that one alone."""

    def __init__(self, spec: RunSpec, home: Home) -> None:
        """
        Raises:
            VlmAblateError: there are not so many devices, or the ranks do not start or do not agree.
        """
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        """Those that were started here."""
        self._commands = self._beats = 0
        self._closing = self._broken = False
        execution = spec.config.execution
        self._world = execution.ranks
        if self._world == 1:
            self.ranks = Ranks()
            return
        _check_devices(execution.devices or 1)
        meeting = self._meet(execution.nodes or 1)
        strategy: Literal["ddp", "fsdp2"] = "fsdp2" if execution.strategy == "fsdp2" else "ddp"
        place = Place(0, self._world, strategy, execution.devices or 1, meeting.near)
        told = {"spec": spec.to_dict(), "home": str(home.root.absolute()), "path": sys.path, "strategy": strategy,
                "world": self._world, "devices": execution.devices or 1, "near": meeting.near}  # fmt: skip
        self._store.set(SETUP, json.dumps(told))
        try:
            for rank in range(1, self._world // meeting.seats):
                self._processes[rank] = start_rank(meeting, self._name, rank, self._world, execution.devices or 1)
            self._agree(identity(spec))
            self.ranks = Ranks(place, self._store)
        except BaseException:
            self._kill()
            raise
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self._world > 1

    def train(self, index: int, before: StageFolder | None, flops: tuple[float, float] | None) -> None:
        """Have the others train a stage; they go along with the first rank's own training.

        Args:
            flops: rates by which they count, see `flops_by_rates`.
        """
        self._command({"stage": index, "before": before.root.name if before else None, "flops": flops})

    def blame(self, error: Exception) -> Exception:
        """What is to be told of an error of the first rank: when another failed, that is the reason."""
        if not self.several or isinstance(error, VlmAblateError):
            return error
        until = time.monotonic() + 5.0
        with contextlib.suppress(RuntimeError):  # torch's: the store is gone, and `error` is all that is known
            while time.monotonic() < until:
                if told := self._failures():
                    return VlmAblateError(told)
                time.sleep(LOOK_SECONDS)
        return error

    def close(self) -> None:
        """End the other ranks."""
        self._closing = True
        if self.several:
            with contextlib.suppress(RuntimeError):  # torch's: the store is gone
                self._command({END: True})
            until = time.monotonic() + GRACE_SECONDS
            # One that has failed elsewhere hangs in a step that the first has left.
            while time.monotonic() < until and not self._broken and self._alive():
                time.sleep(LOOK_SECONDS)
            self._kill()
        self.ranks.close()

    def abandon(self) -> None:
        """End the other ranks at once: the first has left them in the middle of a step."""
        self._broken = True

    def _command(self, body: dict[str, Any]) -> None:
        if self.several:
            self._store.set(f"command/{self._commands}", json.dumps(body))
            self._commands += 1

    def _meet(self, nodes: int) -> Meeting:
        """Open a store on this machine, or go where the ranks of other machines are."""
        meeting = Meeting.of_environment()
        if meeting is None and nodes > 1:
            raise VlmAblateError(
                f"{nodes} nodes a run, and nobody has started ranks on the others",
                hint="start the same command on each with torchrun, or leave it to Slurm: --launcher slurm",
            )
        if meeting is None:
            # Its port is found by itself; ranks are told it on their command line.
            own = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
            meeting = Meeting("127.0.0.1", own.port, 1)
        else:
            own = meeting.store(PATIENCE)
        if self._world % meeting.seats:
            raise VlmAblateError(
                f"{self._world} ranks cannot be dealt to {meeting.seats} processes that were started together",
                hint="leave --devices and --nodes out: they are as many as were started",
            )
        self._shared, self._name, self._seats = own, group_name(own.add(GROUPS, 1)), meeting.seats
        self._store = PrefixStore(self._name, own)
        self._pulses = {seat: Pulse() for seat in range(1, meeting.seats)}
        return meeting

    def _alive(self) -> bool:
        """Whether another rank still goes on, as far as is known here."""
        return any(process.poll() is None for process in self._processes.values())

    def _agree(self, mine: dict[str, str]) -> None:
        world = self._world
        names = [f"is/{rank}" for rank in range(1, world)]
        while not self._store.check(names):
            if told := self._failures():
                raise VlmAblateError(told)
            time.sleep(LOOK_SECONDS)
        others = {rank: json.loads(self._store.get(f"is/{rank}")) for rank in range(1, world)}
        if problem := disagreement(mine, others):
            raise problem

    def _failures(self) -> str | None:
        """Which rank failed, and why: one that says so of itself before one that lost the others."""
        said, gone = [], []
        for rank in range(1, self._world):
            process = self._processes.get(rank)
            if self._store.check([f"failed/{rank}"]):
                told = json.loads(self._store.get(f"failed/{rank}"))
                said.append((not told["reason"], rank, str(told["message"])))
            elif process is not None and process.poll() not in (None, 0):
                gone.append(f"rank {rank} {ending(process.returncode)}")
            elif self._store.check([gone_name(rank)]):
                gone.append(f"rank {rank} {ending(int(self._store.get(gone_name(rank))))}")
        gone += [f"the machine of rank {rank} shows no life" for rank in self._silent()]
        if gone:
            return gone[0]
        return next((f"rank {rank} failed: {message}" for _, rank, message in sorted(said)), None)

    def _silent(self) -> list[int]:
        """First ranks of seats that have shown no life for long."""
        silent = [seat for seat, pulse in self._pulses.items() if pulse.silent(self._shared, beat_name(seat))]
        return [seat * self._world // self._seats for seat in silent]

    def _watch(self) -> None:
        """End this process when it still waits for a rank that is gone; the run goes on from its checkpoint."""
        failed: str | None = None
        since = 0.0
        while not self._closing:
            if failed is None:
                try:
                    self._beats += 1
                    self._store.set(BEAT, str(self._beats))
                    failed = self._failures()
                except RuntimeError:  # torch's: the store is gone, and who has opened it
                    failed = "the meeting point of the ranks is gone"
                since = time.monotonic()
            elif time.monotonic() - since > GRACE_SECONDS:
                print(f"{failed}; the other ranks wait for it in vain", file=sys.stderr, flush=True)
                os._exit(LEFT_ALONE)
            time.sleep(WATCH_SECONDS)

    def _kill(self) -> None:
        with contextlib.suppress(RuntimeError):  # torch's: the store is gone; the processes here are not
            self._store.set(ENDED, "")
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def start_rank(
    meeting: Meeting, group: str, rank: int, world: int, devices: int, *, apart: bool = False
) -> subprocess.Popen[bytes]:
    """Start a rank that is not the first.

    Args:
        group: its name in the store.
        devices: ranks of each machine.
        apart: out of reach of signals to all processes of this terminal or job; they are passed on by who started it.
    """
    paths = dict.fromkeys(path for path in [*sys.path, os.environ.get("PYTHONPATH", "")] if path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    where = [meeting.address, str(meeting.port), group]
    command = [sys.executable, "-m", "vlm_ablate.runs.follow", *where, str(rank), str(world), str(devices)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=apart)


def _check_devices(wanted: int) -> None:
    """
    Raises:
        VlmAblateError: a machine with GPUs has fewer of them.
    """
    have = torch.cuda.device_count() if torch.cuda.is_available() else None
    if have is not None and have < wanted:
        raise VlmAblateError(
            f"{wanted} ranks, and this process sees {have} GPU{'s' * (have != 1)}",
            hint="--devices takes as many as there are; without a GPU each rank is a process",
        )
