"""The ranks of one run: the process that has the run is the first, and starts the others, which follow it.

The first holds the leases, records and reports. The others (`follow.py`) hear of it, through a store on this machine,
which stage to train, from which weights; they train in step with it and say nothing.
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
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.provenance import code_digest, library_versions
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.training.parallel import PATIENCE, Place, Ranks

SETUP, END = "setup", "end"
LOOK_SECONDS = 0.05
GRACE_SECONDS = 30.0
"""How long ranks may take to leave, and the first one to notice that another is gone."""
LEFT_ALONE = 70
"""Exit status of a first rank that waited for one that is gone."""


def identity(spec: RunSpec) -> dict[str, str]:
    """What ranks must agree in, each part as it is told: configuration and seeds, code, libraries."""
    whole = {"spec": spec.to_dict(), "keys": [key.key for key in spec.stage_keys]}
    libraries = library_versions()
    return {
        "configuration": hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16],
        "code of vlm_ablate": code_digest(),
        "libraries": ", ".join(f"{name} {number}" for name, number in sorted(libraries.items())),
    }


def disagreement(mine: dict[str, str], others: dict[int, dict[str, str]]) -> str | None:
    """In what another rank differs from the first; None: in nothing."""
    for rank, theirs in sorted(others.items()):
        for what, value in mine.items():
            if theirs.get(what) != value:
                return f"rank {rank} differs from rank 0 in its {what}: {theirs.get(what)!r}, not {value!r}"
    return None


class Group:
    """All ranks of a run, as the first one holds them; of a run on one device, that one alone."""

    def __init__(self, spec: RunSpec, home: Home) -> None:
        """
        Raises:
            VlmAblateError: there are not so many devices, or the ranks do not start or do not agree.
        """
        self._processes: list[subprocess.Popen[bytes]] = []
        self._commands = 0
        self._closing = self._broken = False
        execution = spec.config.execution
        if execution.ranks == 1:
            self.ranks = Ranks()
            return
        _check_devices(execution.ranks)
        # Its port is found by itself; ranks are told it on their command line.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        place = Place(0, execution.ranks, "fsdp2" if execution.strategy == "fsdp2" else "ddp")
        told = {"spec": spec.to_dict(), "home": str(home.root.absolute()), "path": sys.path, "strategy": place.strategy}
        self._store.set(SETUP, json.dumps(told))
        try:
            self._start(place.world)
            self._agree(identity(spec), place.world)
            self.ranks = Ranks(place, self._store)
        except BaseException:
            self._kill()
            raise
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return bool(self._processes)

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
        while time.monotonic() < until:
            if told := self._failures():
                return VlmAblateError(told)
            time.sleep(LOOK_SECONDS)
        return error

    def close(self) -> None:
        """End the other ranks."""
        self._closing = True
        if self.several:
            self._command({END: True})
            until = time.monotonic() + GRACE_SECONDS
            # One that has failed elsewhere hangs in a step that the first has left.
            while time.monotonic() < until and not self._broken and any(p.poll() is None for p in self._processes):
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

    def _start(self, world: int) -> None:
        paths = dict.fromkeys(path for path in [*sys.path, os.environ.get("PYTHONPATH", "")] if path)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        for rank in range(1, world):
            command = [sys.executable, "-m", "vlm_ablate.runs.follow", str(self._store.port), str(rank), str(world)]
            self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))

    def _agree(self, mine: dict[str, str], world: int) -> None:
        names = [f"is/{rank}" for rank in range(1, world)]
        while not self._store.check(names):
            if told := self._failures():
                raise VlmAblateError(told)
            time.sleep(LOOK_SECONDS)
        others = {rank: json.loads(self._store.get(f"is/{rank}")) for rank in range(1, world)}
        if problem := disagreement(mine, others):
            raise VlmAblateError(problem, hint="the same version of everything has to be installed for all ranks")

    def _failures(self) -> str | None:
        """Which rank failed, and why: one that says so of itself before one that lost the others."""
        said, gone = [], []
        for rank, process in enumerate(self._processes, start=1):
            if self._store.check([f"failed/{rank}"]):
                told = json.loads(self._store.get(f"failed/{rank}"))
                said.append((not told["reason"], rank, str(told["message"])))
            elif process.poll() not in (None, 0):
                status = process.returncode
                gone.append(f"rank {rank} {f'was killed by signal {-status}' if status < 0 else f'exited: {status}'}")
        if gone:
            return gone[0]
        return next((f"rank {rank} failed: {message}" for _, rank, message in sorted(said)), None)

    def _watch(self) -> None:
        """End this process when it still waits for a rank that is gone; the run goes on from its checkpoint."""
        since: float | None = None
        while not self._closing:
            if since is None and any(process.poll() not in (None, 0) for process in self._processes):
                since = time.monotonic()
            if since is not None and time.monotonic() - since > GRACE_SECONDS:
                print(f"{self._failures()}; the other ranks wait for it in vain", file=sys.stderr, flush=True)
                os._exit(LEFT_ALONE)
            time.sleep(1.0)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


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
