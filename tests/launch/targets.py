"""A stand-in for `vlm_ablate.runs.execute.execute` that does what a launcher must cope with.

The spec's `note` says what.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from vlm_ablate.errors import StorageError
from vlm_ablate.events import Checkpointed, Event, RunFinished, RunStarted, StepDone
from vlm_ablate.home import Home
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.logger import RunTracker


def note_of(spec: RunSpec) -> str:
    return spec.config.last_stage.data.mixture["stub"].source.note


def execute(spec: RunSpec, *, home: Home, reporter: Callable[[Event], None], tracking_uri: str) -> RunOutcome:
    """Record a run whose score is its seed, or misbehave as the note says."""
    reporter(RunStarted(spec.hash, spec.run_name, spec.arm, spec.seed, 10))
    action, _, argument = note_of(spec).partition(":")
    with open(home.root / "calls.txt", "a") as calls:
        calls.write(
            f"{spec.arm} {os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n"
        )
    if action == "kill":
        print("about to be killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "exit":
        os._exit(3)
    if action == "raise":
        raise StorageError("cannot write there: the disk is full") if argument == "storage" else ZeroDivisionError("oh")
    if action == "sleep":
        return _sleep(spec, home, reporter, stubborn=argument == "stubborn")
    with RunTracker.start(spec, home=home, tracking_uri=tracking_uri) as tracker:
        reporter(StepDone(spec.hash, 10, 10, 1.0, 100.0))
        tracker.log_scores([{"column": "vqa", "score": float(spec.seed), "blind": False}], 10)
        tracker.finish("finished")
    reporter(RunFinished(spec.hash, "finished", float(spec.seed)))
    return RunOutcome(spec.hash, spec.run_name, "finished", {"vqa": float(spec.seed)}, tracking_run=tracker.run_id)


def _sleep(spec: RunSpec, home: Home, reporter: Callable[[Event], None], *, stubborn: bool) -> RunOutcome:
    """Train for a long time; on an interruption write a checkpoint, unless stubborn."""
    checkpoint = Path(home.run(spec.hash).root) / "checkpoint"
    if checkpoint.exists():
        return RunOutcome(spec.hash, spec.run_name, "finished", message="continued")
    while True:
        try:
            for step in range(600):
                reporter(StepDone(spec.hash, step, 600, 1.0, 100.0))
                time.sleep(0.1)
        except KeyboardInterrupt:
            if stubborn:
                continue
            checkpoint.write_text("")
            reporter(Checkpointed(spec.hash, step))
            raise
