"""Runs in front of any launcher: what is there is not run, what two need is run once, all hear of it.

More runs may be asked for while others go on (a sweep asks for the next trial when one has ended), and one of them may
be stopped early: `submit` gives a future that can `stop`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from vlm_ablate.errors import TrackingError
from vlm_ablate.events import Event, Notice, RunFinished, StageFinished
from vlm_ablate.home import Home
from vlm_ablate.launch.base import (
    EXECUTE,
    GRACE_SECONDS,
    Context,
    Launcher,
    LaunchInterrupted,
    OnEvent,
    Placement,
    RunFuture,
    placed,
)
from vlm_ablate.runs.outcome import RunOutcome, note_from_outside, outcome_of
from vlm_ablate.runs.publishing import publish_missing
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking.store import ensure_store


class Campaign:
    """As a context manager: opens the store and the launcher, and ends what still runs on the way out.

    Args:
        launcher: where runs go.
        home: where results are kept.
        on_event: hears what happens, one event at a time.
        tracking_uri: None: the home's own store.
        target: what runs one spec.
        grace_seconds: how long an interrupted run may take to write its checkpoint.
    """

    def __init__(
        self,
        launcher: Launcher,
        home: Home,
        on_event: OnEvent,
        *,
        tracking_uri: str | None = None,
        target: str = EXECUTE,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._launcher, self.home, self._on_event = launcher, home, on_event
        self._uri, self._target, self._grace = tracking_uri or home.tracking_uri, target, grace_seconds
        self._lock = threading.RLock()
        self._futures: dict[str, RunFuture] = {}
        """Run id -> the future that was given for it, as long as the run is not over."""
        self._training: dict[str, str] = {}
        """Key of a stage that is being trained -> id of the run that trains it."""
        self._waiting: list[tuple[RunFuture, Placement]] = []
        """Runs whose next stage another run trains now."""
        self._asked = 0
        """Runs that were asked for so far."""
        self._inner: dict[str, RunFuture] = {}
        """Run id -> the launcher's own future."""
        self.killed = 0
        self._broken: Exception | None = None
        """What the hearer of events raised; it hears no more."""

    def __enter__(self) -> Campaign:
        """
        Raises:
            TrackingError, StorageError: before anything was started, the store or the home folder cannot be used.
        """
        self.home.prepare()
        ensure_store(self._uri, self._notify)
        try:
            if given := publish_missing(self.home, self._uri, self._notify):
                self._notify(f"the tracking store was given {given} earlier run{'s' * (given > 1)}")
        except TrackingError as error:
            self._notify(f"earlier runs wait for the tracking store: {error.message}")
        self._launcher.open(Context(self.home, self._uri, self._hear, self._target))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.killed += self._launcher.close(self._grace if kind is not None else 0.0)
        self._publish()  # runs whose process died could not do it themselves

    def submit(self, spec: RunSpec, placement: Placement | None = None) -> RunFuture:
        """Ask for a run; the same run asked for twice is one. What is there already is done at once."""
        with self._lock:
            present = self._futures.get(spec.id)
            if present is not None:
                return present
            future = RunFuture(spec, self._stop)
            self._futures[spec.id] = future
            self._asked += 1
            try:
                self._place(future, replace(placement or Placement(), order=self._asked))
            except BaseException:
                self._futures.pop(spec.id, None)
                raise
            return future

    def run(self, specs: Sequence[RunSpec], placement: Placement | None = None) -> list[RunOutcome]:
        """Outcomes in the order of `specs`. A run that fails is an outcome; the others go on.

        Raises:
            LaunchInterrupted: stopped by Ctrl-C or SIGTERM.
            Exception: what the hearer of events raised; the runs stop at a checkpoint.
        """
        futures: list[RunFuture] = []
        with sigterm_as_interrupt():
            try:
                for spec in specs:
                    futures.append(self.submit(spec, placement))
                open_ = set(futures)
                while open_:
                    _, left = wait(open_, timeout=1.0, return_when=FIRST_COMPLETED)
                    open_ = {future for future in futures if future in left}
                    if self._broken is not None:
                        raise self._broken
            except KeyboardInterrupt:
                running = sum(not future.done() for future in self._futures.values())
                self._notify(f"stopping {running} runs at a checkpoint (Ctrl-C again to kill them)")
                self.killed += self._launcher.close(self._grace)
                done = [o for f in futures if f.done() and not f.cancelled() and (o := f.result()).status in _RESULTS]
                raise LaunchInterrupted(done, len(specs), self.killed) from None
        return [replace(future.outcome(), name=spec.run_name) for future, spec in zip(futures, specs, strict=True)]

    def _place(self, future: RunFuture, placement: Placement) -> None:
        """Settle a run from what is on disk, hold it back behind another, or hand it to the launcher."""
        spec = future.spec
        found = find_results(spec, self.home)
        if found.done:
            if found.attempt.get("status") != found.status:
                note_from_outside(spec, self.home, found.status, found.message)
                self._publish()
            outcome = outcome_of(found, reused=True)
            self._hear(RunFinished(spec.id, outcome.status, outcome.mean, outcome.message, 0.0, reused=True))
            self._settle(future, outcome)
            return
        missing = [key.key for key in spec.stage_keys[len(found.outcomes) :]]
        if any(self._training.get(key, spec.id) != spec.id for key in missing):
            self._waiting.append((future, placement))
            return
        self._training |= dict.fromkeys(missing, spec.id)
        try:
            inner = self._launcher.submit(*placed(spec, placement))
        except BaseException:  # nobody computes it: what waits for it must not
            self._training = {key: run for key, run in self._training.items() if run != spec.id}
            raise
        self._inner[spec.id] = inner
        inner.add_done_callback(lambda _: self._ended(future, inner))

    def _ended(self, future: RunFuture, inner: RunFuture) -> None:
        with self._lock:
            self._inner.pop(future.spec.id, None)
            self._training = {key: run for key, run in self._training.items() if run != future.spec.id}
            try:
                self._settle(future, inner.result())
            except CancelledError:
                self._futures.pop(future.spec.id, None)
                self._cancel(future)
            except Exception as error:
                self._futures.pop(future.spec.id, None)
                future.set_exception(error)
        self._release()

    def _settle(self, future: RunFuture, outcome: RunOutcome) -> None:
        self._futures.pop(future.spec.id, None)
        if future.set_running_or_notify_cancel():
            future.set_result(outcome)

    def _release(self) -> None:
        """Place again what waits: a stage that another run trained may be there now.

        It is called where nobody hears of an error: one that a run cannot be placed for is that run's own.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for future, placement in waiting:
                if future.cancelled():
                    self._futures.pop(future.spec.id, None)
                    continue
                try:
                    self._place(future, placement)
                except Exception as error:
                    self._futures.pop(future.spec.id, None)
                    if not future.done():
                        future.set_exception(error)

    def _stop(self, future: RunFuture) -> None:
        with self._lock:
            inner = self._inner.get(future.spec.id)
        if inner is not None:
            inner.stop()
        elif self._cancel(future):  # it waits for another
            self._release()

    def _cancel(self, future: RunFuture) -> bool:
        """Cancel a run that has not begun, so that who waits for it (`concurrent.futures.wait`) hears of it, too."""
        with self._lock:
            if not future.cancelled() and future.cancel():
                future.set_running_or_notify_cancel()
            return future.cancelled()

    def _hear(self, event: Event) -> None:
        with self._lock:
            if self._broken is None:
                try:
                    self._on_event(event)
                except Exception as error:  # e.g. output to a full disk; told by the thread that asked for the runs
                    self._broken = error
            if isinstance(event, StageFinished):
                self._training.pop(event.key, None)
        if isinstance(event, StageFinished):
            self._release()

    def _publish(self) -> None:
        try:
            publish_missing(self.home, self._uri, self._notify)
        except TrackingError as error:
            self._notify(f"the tracking store failed: {error.message}")

    def _notify(self, message: str) -> None:
        self._hear(Notice("", message))


_RESULTS = ("finished", "diverged", "skipped")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM stops a launch as Ctrl-C does; only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous: Callable[..., object] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
