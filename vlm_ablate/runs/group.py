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
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.provenance import code_digest, library_versions
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.meeting import GROUPS, Meeting, group_name, identity_name
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.watch import CONNECT_SECONDS, GRACE_SECONDS, Watch
from vlm_ablate.training.ranks import PATIENCE, Place, Ranks

SETUP, END = "setup", "end"
LOOK_SECONDS = 0.05
BLAME_SECONDS = 5.0
"""How long it may take until it is known that another rank is gone, once a step has failed."""
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
            VlmAblateError: there are not so many devices, or a rank does not come, ends, or does not agree.
        """
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        """Those that were started here."""
        self._commands, self._broken = 0, False
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
        mine = identity(spec)
        self._store.set(SETUP, json.dumps(told))
        self._watch = Watch(meeting, self._name, self._world, self._processes)
        try:
            for rank in range(1, self._world // meeting.seats):
                self._processes[rank] = start_rank(meeting, self._name, rank, self._world, execution.devices or 1)
            self._agree(mine)
            self.ranks = Ranks(place, self._store)
        except Exception as error:
            reason = self.blame(error)
            self._kill()
            if reason is error:
                raise
            raise reason from error
        except BaseException:
            self._kill()
            raise
        self._watch.met()

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
        until = time.monotonic() + BLAME_SECONDS
        try:
            while time.monotonic() < until:
                self._watch.check()
                time.sleep(LOOK_SECONDS)
        except VlmAblateError as reason:
            return reason
        return error

    def close(self) -> None:
        """End the other ranks."""
        if self.several:
            self._watch.stop()
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
            own = meeting.store(timedelta(seconds=CONNECT_SECONDS))
            own.set_timeout(PATIENCE)
        if self._world % meeting.seats:
            raise VlmAblateError(
                f"{self._world} ranks cannot be dealt to {meeting.seats} processes that were started together",
                hint="leave --devices and --nodes out: they are as many as were started",
            )
        self._name = group_name(own.add(GROUPS, 1))
        self._store = PrefixStore(self._name, own)
        return meeting

    def _alive(self) -> bool:
        """Whether another rank still goes on, as far as is known here."""
        return any(process.poll() is None for process in self._processes.values())

    def _agree(self, mine: dict[str, str]) -> None:
        world = self._world
        names = [identity_name(rank) for rank in range(1, world)]
        while not self._store.check(names):
            self._watch.check()
            time.sleep(LOOK_SECONDS)
        others = {rank: json.loads(self._store.get(name)) for rank, name in enumerate(names, start=1)}
        if problem := disagreement(mine, others):
            raise problem

    def _kill(self) -> None:
        self._watch.close()
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
