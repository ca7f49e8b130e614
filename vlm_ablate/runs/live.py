"""Where a run is while it goes: `live.json` in its folder, for whoever wants to see; and `stop`, which asks it to end.

Both work wherever the home can be seen: the file is written, and the request is looked for, by the thread that renews
the run's lease. `vlm_ablate.lease.holder(run_folder(...).root)` tells whether the process that wrote a `live.json` is
still there.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vlm_ablate.errors import StorageError
from vlm_ablate.events import EvaluationProgress, Event, Preparing, Reporter, RunStarted, StageStarted, StepDone
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.runs.folder import RunFolder, read_json
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import storage_errors, write_atomically
from vlm_ablate.training.interruption import Interruption

LAUNCHER_VARIABLE = "VLM_ABLATE_LAUNCHER"
"""Environment variable in which a launcher gives the processes that it starts its name."""
BEAT_SECONDS = 1.0
"""Between two looks for a request to stop."""
WRITE_SECONDS = 2.0
"""Least time between two writings of `live.json`."""
IDLE_SECONDS = 10.0
"""Most time between two writings, so that its age tells whether the process lives."""


@dataclass(frozen=True)
class LiveRun:
    """Where a run is and how far."""

    run: str
    """Id of the run."""
    name: str
    experiment: str
    arm: str
    seed: int
    scale: str
    host: str
    pid: int
    launcher: str
    """Who started the process; empty: nobody but a caller of `execute`."""
    token: int
    """Fencing number of the run's lease."""
    doing: str = "starting"
    """starting | waiting | preparing | training | answering"""
    detail: str = ""
    """What is prepared, waited for or answered."""
    stage: str = ""
    step: int = 0
    """Optimiser steps done, over all stages; while answering, items."""
    total: int = 0
    started_ms: int = 0
    """Of this process's attempt, ms since the epoch."""
    updated_ms: int = 0
    """When this was written; both times by the clock of the machine that runs."""


def read_live(folder: RunFolder) -> LiveRun | None:
    """Where a run is; None when no process says so, or what it says cannot be read."""
    try:
        body = read_json(folder.live)
    except StorageError:
        return None
    if body is None:
        return None
    kinds = {"str": str, "int": int}
    values = {f.name: body.get(f.name, f.default) for f in fields(LiveRun)}
    whole = all(isinstance(values[f.name], kinds[str(f.type)]) for f in fields(LiveRun))
    return LiveRun(**values) if whole else None


def ask_to_stop(folder: RunFolder) -> None:
    """Ask a run to stop after the step in progress, with a checkpoint, wherever it runs; its status is then `stopped`.

    A run that has not begun stops after its first step; one that only answers goes on to its end.

    Raises:
        StorageError: the request cannot be written.
    """
    with storage_errors("write", folder.stop):
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.stop.touch()


class Live:
    """Keeps `live.json` of one run up to date, and hears of requests to stop.

    Args:
        spec: the run.
        folder: of the run.
        interruption: is asked for an early stop.
        reporter: hears all events that `hear` hears.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, interruption: Interruption, reporter: Reporter) -> None:
        self._folder, self._interruption, self._reporter = folder, interruption, reporter
        self._now = LiveRun(
            spec.id, spec.run_name, spec.experiment, spec.arm, spec.seed, spec.scale, socket.gethostname(), os.getpid(),
            os.environ.get(LAUNCHER_VARIABLE, ""), 0, started_ms=_ms(),
        )  # fmt: skip
        self._written: LiveRun | None = None
        self._written_at = 0.0

    def hear(self, event: Event) -> None:
        """Note what an event tells, and pass it on."""
        match event:
            case RunStarted():
                self._note(total=event.steps, step=event.resumed_step)
            case StageStarted():
                self._note(doing="training", detail="", stage=event.stage)
            case StepDone():
                self._note(doing="training", detail="", step=event.step, total=event.steps)
            case EvaluationProgress():
                detail = f"{event.column} without images" if event.blind else event.column
                self._note(doing="answering", detail=detail, step=event.done, total=event.total)
            case Preparing():
                self._note(doing="preparing", detail=event.what)
        self._reporter(event)

    def waiting(self, what: str) -> None:
        """Note that another process has what this one needs."""
        self._note(doing="waiting", detail=what)

    def beat(self, lease: Lease) -> None:
        """Write where the run is, when that is due, and look for a request to stop. For the lease's thread."""
        if lease.lost:
            return
        if self._folder.stop.exists():
            self._interruption.request_early()
            self._folder.stop.unlink(missing_ok=True)
        since = time.monotonic() - self._written_at
        now = replace(self._now, token=lease.token)
        if since < WRITE_SECONDS or (now == self._written and since < IDLE_SECONDS):
            return
        self._written, self._written_at = now, time.monotonic()
        write_atomically(self._folder.live, _text(replace(now, updated_ms=_ms())), durable=False)

    def end(self, lease: Lease) -> None:
        """Remove the files, unless another process has the run now: it has ended, or this process leaves it."""
        with suppress(LeaseLost, StorageError, OSError):
            lease.check()
            for file in (self._folder.live, self._folder.stop):
                file.unlink(missing_ok=True)

    def _note(self, **changed: Any) -> None:
        self._now = replace(self._now, **changed)


def _text(live: LiveRun) -> str:
    return json.dumps(asdict(live), ensure_ascii=False) + "\n"


def _ms() -> int:
    return time.time_ns() // 1_000_000
