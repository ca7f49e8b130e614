"""A stand-in for `vlm_ablate.runs.execute.execute` that does what a launcher must cope with.

The spec's `note` says what.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from tests.runs.disk import write_results
from vlm_ablate.errors import StorageError
from vlm_ablate.events import Checkpointed, Event, RunFinished, RunStarted, StageFinished, StepDone
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.spec import RunSpec


def note_of(spec: RunSpec) -> str:
    return next(iter(spec.config.stages.values())).data.mixture["stub"].source.note


def execute(spec: RunSpec, *, home: Home, reporter: Callable[[Event], None], tracking_uri: str) -> RunOutcome:
    """Leave a run whose score is its seed, or misbehave as the note says."""
    reporter(RunStarted(spec.id, spec.run_name, spec.arm, spec.seed, 10))
    action, _, argument = note_of(spec).partition(":")
    with open(home.root / "calls.txt", "a") as calls:
        calls.write(
            f"{spec.arm} {os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n"
        )
    if action == "kill":
        print("about to be killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "child":
        child = subprocess.Popen(["sleep", "600"])
        (home.root / "child").write_text(str(child.pid))
        if argument != "left":
            os.kill(os.getpid(), signal.SIGKILL)
    if action == "exit":
        os._exit(3)
    if action == "raise":
        raise StorageError("cannot write there: the disk is full") if argument == "storage" else ZeroDivisionError("oh")
    if action == "sleep":
        return _sleep(spec, home, reporter, stubborn=argument == "stubborn")
    reporter(StepDone(spec.id, 10, 10, 1.0, 100.0))
    results = write_results(spec, home, score=float(spec.seed))
    for key in spec.stage_keys:
        reporter(StageFinished(spec.id, key.name, key.key))
    reporter(RunFinished(spec.id, "finished", float(spec.seed)))
    return outcome_of(results, trained=tuple(key.name for key in spec.stage_keys))


class _Stopped(Exception):
    """SIGUSR1 came."""


def _sleep(spec: RunSpec, home: Home, reporter: Callable[[Event], None], *, stubborn: bool) -> RunOutcome:
    """Train for a long time; on an interruption write a checkpoint, unless stubborn."""
    checkpoint = run_folder(home, spec.id).root / "checkpoint"
    if checkpoint.exists():
        return RunOutcome(spec.id, spec.run_name, "finished", message="continued")

    def stop(number: int, frame: object) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    while True:
        try:
            for step in range(600):
                if run_folder(home, spec.id).stop.exists():
                    raise _Stopped
                reporter(StepDone(spec.id, step, 600, 1.0, 100.0))
                time.sleep(0.1)
        except _Stopped:
            with suppress(ValueError):
                signal.signal(signal.SIGUSR1, before)
            checkpoint.write_text("")
            return RunOutcome(spec.id, spec.run_name, "stopped", message="stopped early")
        except KeyboardInterrupt:
            if stubborn:
                continue
            checkpoint.write_text("")
            reporter(Checkpointed(spec.id, step))
            raise
