"""A launcher over any engine that starts jobs on other machines: Ray, Slurm.

An engine starts jobs, tells which have ended, and takes them back. Everything else is here, once: handing over through
the home, hearing how runs go, stopping them, and giving a run to the engine again when its job was lost.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Notice, RunFinished
from vlm_ablate.launch.base import Context, Placement, RunFuture, stop_early
from vlm_ablate.launch.handover import Handover, Listening, Task
from vlm_ablate.launch.leftovers import Leftovers
from vlm_ablate.launch.wire import Message
from vlm_ablate.lease import Lease
from vlm_ablate.runs.endings import INTERRUPTED
from vlm_ablate.runs.outcome import RunOutcome, failed, note_from_outside, outcome_of
from vlm_ablate.runs.publishing import NOWHERE
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.sqlite_reader import sqlite_path

LISTEN_SECONDS = 0.2
LOOK_SECONDS = 1.0
GATHER_SECONDS = 0.3
"""Runs that are asked for within this time are handed over together."""
SETTLE_SECONDS = 5.0
"""How long after the end of a job its last words may take through a network file system."""


class Engine(Protocol):
    """What starts jobs. Its methods are called from one thread at a time."""

    name: str
    jobs: int | None
    """Jobs that may be there at a time; None: it decides itself."""
    retries: int
    """How often a run is handed over again whose job was lost."""
    threads: int
    """Of each run."""
    alone: bool
    """Whether all its jobs are on this machine."""
    outlive: bool
    """Whether its jobs go on when the command that started them is killed; then they are named by texts."""

    def open(self, handover: Handover) -> None:
        """Reach the engine, and make sure that its machines see the folder of the launch.

        Raises:
            VlmAblateError: it cannot be used. After a bounded time.
        """

    def check(self, placement: Placement) -> None:
        """
        Raises:
            VlmAblateError: no machine can ever satisfy it.
        """

    def start(self, tasks: Sequence[Task], placement: Placement) -> Sequence[Hashable]:
        """Start a job for each task, which calls `remote.attend`; returns at once with what names the jobs.

        Raises:
            VlmAblateError: it does not take them.
        """

    def ended(self, jobs: Iterable[Hashable]) -> Mapping[Hashable, str]:
        """Which of these jobs are over, with why if that was not for the end of their run.

        Raises:
            VlmAblateError: the engine is gone, and its jobs with it.
        """

    def cancel(self, jobs: Iterable[Hashable]) -> None:
        """End jobs at once, waiting or running."""

    def close(self) -> None:
        """Leave the engine."""


@dataclass(eq=False)
class _Job:
    """A run that the engine has."""

    future: RunFuture
    placement: Placement
    task: Task
    said: Listening
    id: Hashable
    begun: bool = False
    last: Message = ("",)
    """What was said last that is no event."""
    why: str = ""
    over_since: float | None = None
    handed: int = 1
    """How often it was handed over."""


@dataclass(eq=False)
class _Asked:
    """A run that the engine is to have."""

    future: RunFuture
    placement: Placement
    at: float = field(default_factory=time.monotonic)
    handed: int = 0


class EngineLauncher:
    """Runs specs with an engine. A thread hands over and listens; futures complete and events arrive from there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: deque[_Asked] = deque()
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        """Over the two lists and over the engine."""
        self._handed = 0
        self._closing = self._over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"{engine.name} runs", daemon=True)
        self._looked = 0.0
        self._failures = 0
        self._left = Leftovers()

    def open(self, context: Context) -> None:
        """See `Launcher.open`."""
        self._context = context
        home = str(context.home.root.absolute())
        # SQLite over a network file system loses writes: then this process publishes, at the end.
        uri = context.tracking_uri if self._engine.alone or sqlite_path(context.tracking_uri) is None else NOWHERE
        shared = {"home": home, "target": context.target, "tracking_uri": uri, "path": sys.path}
        own = {"launcher": self._engine.name, "threads": self._engine.threads, "host": socket.gethostname()}
        self._handover = Handover.create(context.home, shared | own)
        self._lease = Lease.acquire(self._handover.root)
        try:
            self._engine.open(self._handover)
        except BaseException:
            self._lease.release()
            self._handover.remove()
            raise
        if self._engine.outlive:
            self._left = Leftovers.of(context.home, shared | own)
        self._thread.start()

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        """See `Launcher.submit`."""
        with self._lock:
            self._engine.check(placement)
            future = RunFuture(spec, self._stop)
            left = None if self._closing else self._left.pop(spec.id)
            if left is not None:
                job = _Job(future, placement, left.task, Listening(left.task), left.job)
                self._jobs.append(job)
            elif not self._closing:
                self._asked.append(_Asked(future, placement))
        if left is not None:
            self._notice(job, f"{spec.run_name}: waits for its job {left.job} of an earlier command", "info")
        elif self._closing:  # what waited for a run that is stopped now
            future.cancel()
        return future

    def close(self, grace_seconds: float = 0.0) -> int:
        """See `Launcher.close`."""
        give_up = time.monotonic() + grace_seconds
        with self._lock:
            self._closing = True
            asked, self._asked = list(self._asked), deque()
            for job in self._jobs:
                with suppress(VlmAblateError):
                    job.task.withdraw()
            self._cancel(job for job in self._jobs if not job.begun)
        for each in asked:
            each.future.cancel()
        with suppress(KeyboardInterrupt):
            while any(job.begun for job in self._jobs) and time.monotonic() < give_up:
                time.sleep(0.05)
        with self._lock:
            killed = [job for job in self._jobs if job.begun]
            self._cancel(killed)
            self._over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._engine.close()
        settled = not killed and not self._failures
        self._left.close(settled=settled)
        self._lease.release()
        if settled:
            self._handover.remove()
        return len(killed)

    def _cancel(self, jobs: Iterable[_Job]) -> None:
        with suppress(VlmAblateError):
            self._engine.cancel([job.id for job in jobs])

    def _stop(self, future: RunFuture) -> None:
        if not future.cancel():
            stop_early(future, self._context.home)
            return
        with self._lock:  # it has not begun
            for job in [job for job in self._jobs if job.future is future]:
                self._jobs.remove(job)
                with suppress(VlmAblateError):
                    job.task.withdraw()
                self._cancel([job])

    def _loop(self) -> None:
        while not self._over:
            try:
                self._hand_over()
                self._listen()
                self._look()
            except Exception as error:  # the outcome of all that runs, never an endless wait
                self._lost(error)
            self._wake.wait(max(LISTEN_SECONDS, 0.005 * len(self._jobs)))

    def _hand_over(self) -> None:
        """Give the engine what was asked for, as much as may be there at a time; in one call what has one placement."""
        with self._lock:
            free = len(self._asked) if self._engine.jobs is None else self._engine.jobs - len(self._jobs)
            if not self._asked or free <= 0 or time.monotonic() - self._asked[-1].at < GATHER_SECONDS:
                return
            taken = [self._asked.popleft() for _ in range(min(free, len(self._asked)))]
            taken = [asked for asked in taken if not asked.future.cancelled()]
            refused: list[tuple[RunFuture, Exception]] = []
            for placement in dict.fromkeys(asked.placement for asked in taken):
                those = [asked for asked in taken if asked.placement == placement]
                try:
                    self._start(those, placement)
                except Exception as error:  # none of them may be waited for without end
                    refused += [(asked.future, error) for asked in those]
        for future, why in refused:
            _refuse(future, why)

    def _start(self, asked: Sequence[_Asked], placement: Placement) -> None:
        tasks = []
        for each in asked:
            self._handed += 1
            tasks.append(self._handover.task(self._handed, each.future.spec))
        try:
            ids = self._engine.start(tasks, placement)
        except BaseException:
            for task in tasks:
                with suppress(VlmAblateError):
                    task.withdraw()  # the engine may have taken one before it failed
            raise
        for each, task, id in zip(asked, tasks, ids, strict=True):
            if self._engine.outlive:
                with suppress(VlmAblateError):
                    task.note_job(str(id))
            begun = each.future.running()
            self._jobs.append(_Job(each.future, placement, task, Listening(task), id, begun, handed=each.handed + 1))

    def _listen(self) -> None:
        for job in list(self._jobs):
            for message in job.said():
                self._hear(job, message)

    def _hear(self, job: _Job, message: Message) -> None:
        if message[0] == "event":
            self._context.on_event(message[1])
            return
        job.last = message
        if not job.begun:
            job.begun = True
            if not job.future.set_running_or_notify_cancel():
                return
        if message[0] == "done":
            self._finish(job, message[1])

    def _look(self) -> None:
        """Ask the engine which jobs are over without having said how their run ended."""
        if time.monotonic() - self._looked < LOOK_SECONDS or not self._jobs:
            return
        self._looked = time.monotonic()
        with self._lock:
            over = self._engine.ended([job.id for job in self._jobs if job.over_since is None])
        for job in list(self._jobs):
            if job.over_since is None and job.id in over:
                job.over_since, job.why = self._looked, over[job.id]
            said_why = job.last[0] in ("interrupted", "died", "elsewhere")
            settled = job.over_since is not None and (said_why or self._looked - job.over_since > SETTLE_SECONDS)
            if settled or (self._closing and job.last[0] == "interrupted"):
                self._ended_without_result(job)

    def _ended_without_result(self, job: _Job) -> None:
        """From what is on disk, by handing it over again, or as failed."""
        spec = job.future.spec
        kind, *said = job.last
        try:
            found = find_results(spec, self._context.home)
        except VlmAblateError as error:
            self._fail(job, str(error), noted=False)
            return
        if found.done:
            outcome = outcome_of(found, trained=tuple(key.name for key in spec.stage_keys))
            self._context.on_event(RunFinished(spec.id, outcome.status, outcome.mean, outcome.message))
            self._finish(job, outcome)
        elif kind in ("died", "elsewhere"):
            self._fail(job, said[0], noted=kind == "died", died=kind == "died")
        elif self._closing:
            self._fail(job, INTERRUPTED, noted=False)
        elif job.handed <= self._engine.retries:
            why = job.why or ("it was interrupted" if kind == "interrupted" else "it ended without a word")
            self._notice(job, f"{spec.run_name}: its job is over ({why}); it goes on in another from its checkpoint")
            with suppress(VlmAblateError), self._lock:
                self._jobs.remove(job)
                self._asked.appendleft(_Asked(job.future, job.placement, handed=job.handed))
                job.task.withdraw()  # an attempt that the engine has lost and that lives nevertheless
        else:
            why = job.why or "it ended without a word"
            self._fail(job, f"its job was lost {job.handed} times; the last: {why}", noted=True)

    def _fail(self, job: _Job, message: str, *, noted: bool, died: bool = False) -> None:
        spec = job.future.spec
        self._failures += 1
        if noted:
            with suppress(VlmAblateError):
                note_from_outside(spec, self._context.home, "failed", message)
        self._context.on_event(RunFinished(spec.id, "failed", message=message))
        self._finish(job, failed(spec, message, died=died))

    def _finish(self, job: _Job, outcome: RunOutcome) -> None:
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
        with suppress(VlmAblateError):
            job.task.withdraw()  # an attempt elsewhere that waits for this one may go
        if not (job.future.cancelled() if job.begun else not job.future.set_running_or_notify_cancel()):
            job.future.set_result(outcome)

    def _lost(self, error: Exception) -> None:
        """The engine is gone: nobody computes these runs any more."""
        message = str(error) if isinstance(error, VlmAblateError) else f"{type(error).__name__}: {error}"
        for job in list(self._jobs):
            self._fail(job, message, noted=False, died=True)
        with self._lock:
            asked, self._asked = list(self._asked), deque()
        for each in asked:
            _refuse(each.future, error)

    def _notice(self, job: _Job, message: str, level: Literal["info", "warning"] = "warning") -> None:
        self._context.on_event(Notice(job.future.spec.id, message, level))


def _refuse(future: RunFuture, error: Exception) -> None:
    """Never under the launcher's lock: who hears of it may ask for the next run."""
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)
