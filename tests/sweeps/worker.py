"""One process's share of a sweep, for tests that start several: `python -m tests.sweeps.worker FILE HOME URI SECONDS`.

A run takes SECONDS in this very process: it begins (a line in HOME/begun.txt), leaves a checkpoint, and ends. Where a
checkpoint is, it goes on from it (a line in HOME/continued.txt).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.sweeps.toys import Oracle, quality, sweep
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.spec import RunSpec


class Slow(Oracle):
    """Leaves a checkpoint and takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(quality)
        self.pause = seconds

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        root = self.context.home.root
        checkpoint = run_folder(self.context.home, spec.id).root / "checkpoint"
        rate = spec.config.stages["train"].learning_rate
        with open(root / ("continued.txt" if checkpoint.exists() else "begun.txt"), "a") as lines:
            lines.write(f"{rate!r} {os.getpid()}\n")
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        time.sleep(self.pause)
        return super().submit(spec, placement)


def main() -> None:
    file, home, uri, seconds = sys.argv[1:]
    Campaign._publish = lambda self: None  # type: ignore[method-assign]  # as in conftest.py
    sweep(Path(file), Home(Path(home)), Slow(float(seconds)), uri=uri or None)


if __name__ == "__main__":
    main()
