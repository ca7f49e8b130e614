"""What every launcher does: give it specs, get outcomes in the same order, hear events while it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Event
from vlm_ablate.home import Home
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec

OnEvent = Callable[[Event], None]


class Launcher(Protocol):
    """Runs specs somewhere."""

    def run(self, specs: Sequence[RunSpec], home: Home, on_event: OnEvent) -> list[RunOutcome]:
        """Outcomes in the order of `specs`. A run that fails is an outcome; the others go on.

        Specs with equal hashes are run once, and what finished earlier is not run at all.

        Raises:
            Interrupted: stopped by Ctrl-C or SIGTERM.
            TrackingError, StorageError: before anything was started, the store or the home folder cannot be used.
        """
        ...


class Interrupted(VlmAblateError):
    """The launch was stopped; what finished is recorded, the rest continues when the same command runs again."""

    exit_code = 130

    def __init__(self, outcomes: Sequence[RunOutcome], total: int, killed: int = 0) -> None:
        self.outcomes = tuple(outcomes)
        message = f"interrupted: {len(self.outcomes)} of {total} runs are done and recorded"
        if killed:
            message += f"; {killed} did not stop in time and continue from their last checkpoint"
        super().__init__(message, hint="the same command continues from here")


def failed(spec: RunSpec, message: str) -> RunOutcome:
    """The outcome of a run that could not say itself how it ended."""
    return RunOutcome(run=spec.hash, name=spec.run_name, status="failed", message=message)
