"""Jobs of a command that was killed and that an engine still has: the next command waits for them, starting no others.

A launch holds the lease of its folder (`HOME/launches/ID`). One whose lease nobody holds belongs to a process that is
gone; who takes the lease then has its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch.handover import Handover, Listening, Task
from vlm_ablate.lease import Lease, LeaseHeld, holder
from vlm_ablate.runs.folder import read_json

_OWN = ("path", "host")
"""What may differ between the setups of two launches that would start the same jobs."""
_LAST = ("done", "died", "elsewhere")
"""Messages after which a job says nothing more."""


@dataclass(frozen=True)
class Leftover:
    """One of these jobs."""

    task: Task
    job: str
    """As the engine names it."""


class Leftovers:
    """The jobs of launches that are gone, by run. Holds the leases of these launches until it is closed."""

    def __init__(self) -> None:
        self._found: dict[str, Leftover] = {}
        self._taken: list[tuple[Handover, Lease]] = []

    @classmethod
    def of(cls, home: Home, setup: Mapping[str, Any]) -> Leftovers:
        """Take over what launches with the same setup have left in this home."""
        left = cls()
        for token in sorted(home.launches.glob("*/token")):
            with suppress(LeaseHeld, VlmAblateError, OSError):
                left._take(token.parent, setup)
        return left

    def _take(self, root: Path, setup: Mapping[str, Any]) -> None:
        if holder(root) is not None or _shared(read_json(root / "setup.json") or {}) != _shared(setup):
            return
        if not _jobs(root):
            return
        lease = Lease.acquire(root, wait=False)
        try:
            # Who had it until now may have heard the last of its jobs, and removed the folder.
            handover, found = Handover(root, (root / "token").read_text()), _jobs(root)
        except BaseException:
            lease.release()
            raise
        if not found:
            lease.release()
            return
        self._taken.append((handover, lease))
        self._found = found | self._found

    def pop(self, run: str) -> Leftover | None:
        """The job of a run, once."""
        return self._found.pop(run, None)

    def close(self, *, settled: bool) -> None:
        """Give the launches back.

        Args:
            settled: whether all that was taken has ended well; then their folders go, but those of jobs that go on and
                that nobody asked for.
        """
        waiting = {left.task.root.parents[1] for left in self._found.values() if _unfinished(left.task)}
        for handover, lease in self._taken:
            lease.release()
            if settled and handover.root not in waiting:
                handover.remove()
        self._taken = []


def _jobs(root: Path) -> dict[str, Leftover]:
    """Of a launch, by run: those that somebody may wait for."""
    tasks = [Task(file.parent) for file in sorted(root.glob("runs/*/task.json"))]
    return {run: Leftover(task, job) for task in tasks if (job := task.job) and (run := _unfinished(task))}


def _unfinished(task: Task) -> str:
    """The run's id; empty when nobody is to wait for the job: it has said how its run ended, or was told to leave."""
    if task.withdrawn:
        return ""
    said = [message[0] for message in Listening(task)()]
    if any(kind in _LAST for kind in said):
        return ""
    try:
        return str(task.read()["id"])
    except (StorageError, KeyError):
        return ""


def _shared(setup: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in setup.items() if name not in _OWN}
