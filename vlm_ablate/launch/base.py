"""What a launcher is: it is handed runs one by one and gives a future for each. Reuse, twins and order are not its."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Event
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.live import ask_to_stop
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec

OnEvent = Callable[[Event], None]

EXECUTE = "vlm_ablate.runs.execute:execute"
GRACE_SECONDS = 60.0
"""How long an interrupted run may take to write its checkpoint."""


@dataclass(frozen=True)
class Placement:
    """What one run takes. A group of several ranks has one that locks, records and reports: rank 0."""

    devices: int | None = None
    """Ranks of a node, each with a GPU; on this machine, where it has none, each a process. None: as the run's
    execution section says, else one, with a GPU where there are any. 0: one, without."""
    nodes: int | None = None
    """None: as the run's execution section says, else one."""
    order: int = field(default=0, compare=False)
    """Of runs that wait for room those with a lower one go first, also where they had to wait for a stage that another
    run trained: a launcher with a queue of its own keeps it so."""


def placed(spec: RunSpec, placement: Placement) -> tuple[RunSpec, Placement]:
    """A run with its placement in its execution section, which decides no result, and the placement with what it left
    open filled in from there.

    Raises:
        VlmAblateError: so many ranks cannot compute the run.
    """
    before = spec.config.execution
    devices = before.devices if placement.devices is None else placement.devices
    nodes = placement.nodes or before.nodes or 1
    execution = before.model_copy(update={"devices": devices or None, "nodes": nodes if nodes > 1 else None})
    if problem := spec.config.unfit_for_ranks(execution):
        raise VlmAblateError(f"{spec.run_name}: {problem[1]} (execution.{problem[0]})")
    if execution != before:
        spec = replace(spec, config=spec.config.model_copy(update={"execution": execution}))
    return spec, Placement(devices, nodes, placement.order)


@dataclass(frozen=True)
class Context:
    """What all runs of a campaign share."""

    home: Home
    tracking_uri: str
    on_event: OnEvent
    """Hears the events of runs as they come, one at a time, from whichever thread."""
    target: str = EXECUTE
    """`module:function` that runs one spec, with the signature of `vlm_ablate.runs.execute.execute`."""


class RunFuture(Future[RunOutcome]):
    """The outcome of one run, some day. A run that fails has an outcome; exceptions are of the launcher itself."""

    def __init__(self, spec: RunSpec, stop: Callable[[RunFuture], None]) -> None:
        super().__init__()
        self.spec, self._stop = spec, stop

    def stop(self) -> None:
        """Ask the run to stop after the step in progress, with a checkpoint; its outcome is then `stopped`.

        A run that has not begun is cancelled.
        """
        if not self.done():
            self._stop(self)

    def outcome(self) -> RunOutcome:
        """The result, once it is there; of a run that was cancelled: stopped."""
        try:
            return self.result()
        except CancelledError:
            return RunOutcome(self.spec.id, self.spec.run_name, "stopped", message="stopped before it began")


def stop_early(future: RunFuture, home: Home) -> None:
    """Ask a run that has begun to stop early, wherever it is and however far its process is.

    A request that comes while the run ends is taken back then: it would stop whoever computes the run again.

    Raises:
        StorageError: the request cannot be written.
    """
    folder = run_folder(home, future.spec.id)
    ask_to_stop(folder)
    future.add_done_callback(lambda _: folder.stop.unlink(missing_ok=True))


class Launcher(Protocol):
    """Runs specs somewhere."""

    def open(self, context: Context) -> None:
        """Get ready; called once, before any `submit`.

        Raises:
            VlmAblateError: it cannot run anything here.
        """

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        """Hand over a run; returns at once.

        Raises:
            VlmAblateError: no node can ever satisfy the placement.
        """

    def close(self, grace_seconds: float = 0.0) -> int:
        """End everything; what still runs has so long for a checkpoint. Returns how many runs were killed."""


class LaunchInterrupted(VlmAblateError):
    """The launch was stopped; what finished is recorded, the rest continues when the same command runs again."""

    exit_code = 130

    def __init__(self, outcomes: Sequence[RunOutcome], total: int, killed: int = 0) -> None:
        self.outcomes = tuple(outcomes)
        message = f"interrupted: {len(self.outcomes)} of {total} runs are done and recorded"
        if killed:
            message += f"; {killed} did not stop in time and continue from their last checkpoint"
        super().__init__(message, hint="the same command continues from here")
