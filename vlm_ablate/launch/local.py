"""Runs specs in worker processes of this machine: one a GPU, or one a core, each serving many runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from vlm_ablate.events import Notice, RunFinished
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Interrupted, OnEvent, failed
from vlm_ablate.launch.devices import cores, gpus, worker_environment
from vlm_ablate.launch.worker import LOG_FILE
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import HOME_VARIABLE
from vlm_ablate.tracking.logger import record_failure
from vlm_ablate.tracking.reuse import find_reusable
from vlm_ablate.tracking.spool import replay_spools
from vlm_ablate.tracking.store import ensure_store

EXECUTE = "vlm_ablate.runs.execute:execute"
GRACE_SECONDS = 60.0
"""How long an interrupted run may take to write its checkpoint."""


class LocalLauncher:
    """Worker processes on this machine.

    Args:
        jobs: runs at a time; None: one for each GPU, or without GPUs for each core.
        threads: threads of one CPU operation in a worker.
        tracking_uri: None: the local store of the home folder.
        target: `module:function` that runs one spec, with the signature of `vlm_ablate.runs.execute.execute`.
        grace_seconds: how long an interrupted run may take to write its checkpoint.
    """

    def __init__(self, *, jobs: int | None = None, threads: int = 1, tracking_uri: str | None = None,
                 target: str = EXECUTE, grace_seconds: float = GRACE_SECONDS) -> None:  # fmt: skip
        self.jobs, self.threads, self.tracking_uri, self.target = jobs, threads, tracking_uri, target
        self.grace_seconds = grace_seconds

    def run(self, specs: Sequence[RunSpec], home: Home, on_event: OnEvent) -> list[RunOutcome]:
        """See `Launcher.run`."""
        home.prepare()
        uri = self.tracking_uri or home.tracking_uri

        def notify(message: str) -> None:
            on_event(Notice("", message))

        ensure_store(uri, notify)
        replay_spools(home, notify)
        outcomes = [RunOutcome.from_record(record) if record else None for record in find_reusable(specs, uri)]
        for outcome in filter(None, outcomes):
            on_event(
                RunFinished(outcome.run, outcome.status, outcome.mean, outcome.message, outcome.seconds, reused=True)
            )
        missing = {
            spec.hash: spec for spec, outcome in reversed(list(zip(specs, outcomes, strict=True))) if not outcome
        }
        # The dict keeps the first spec of each hash; the queue keeps the order of `specs`.
        queue = [spec for spec in specs if missing.get(spec.hash) is spec]
        if queue:
            pool = _Pool(self, queue, home, uri, on_event)
            try:
                fresh = pool.run()
            except KeyboardInterrupt:
                killed = pool.stop_all()
                done = [o for o in outcomes if o] + [o for o in pool.outcomes.values() if o.status != "failed"]
                raise Interrupted(done, len(specs), killed) from None
            finally:
                pool.close()
            outcomes = _complete(specs, outcomes, fresh, uri)
        return [outcome for outcome in outcomes if outcome]


def _complete(
    specs: Sequence[RunSpec], outcomes: list[RunOutcome | None], fresh: dict[str, RunOutcome], uri: str
) -> list[RunOutcome | None]:
    """Fill in the fresh outcomes; specs that share a hash with one that was run get a copy of its record."""
    twins, seen = [], set[str]()
    for i, spec in enumerate(specs):
        if outcomes[i] is None:
            outcomes[i] = replace(fresh[spec.hash], name=spec.run_name)
            if spec.hash in seen:
                twins.append(i)
            seen.add(spec.hash)
    copies = find_reusable([specs[i] for i in twins], uri) if twins else []
    for i, record in zip(twins, copies, strict=True):
        if record is not None:
            outcomes[i] = RunOutcome.from_record(record)
    return outcomes


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, index: int, environment: dict[str, str], setup: dict[str, Any]) -> None:
        self.index, self.spec = index, None
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "vlm_ablate.launch.worker", str(theirs.fileno())]
        with theirs:
            # A session of its own: Ctrl-C reaches it only through us, and all its children can be ended with it.
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self.link = Connection(ours.detach())
        self.link.send(("setup", setup))

    spec: RunSpec | None

    def give(self, spec: RunSpec) -> None:
        """Start a run; a worker that has just died is noticed when its answer is read."""
        self.spec = spec
        with suppress(OSError):
            self.link.send(("run", {"spec": spec.to_dict(), "hash": spec.hash, "name": spec.run_name}))

    def signal(self, number: int) -> None:
        """Send a signal to the worker alone (SIGKILL: to everything it started, too)."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)

    def bury(self) -> int:
        """Reap a worker that has ended or must, with its children; returns its exit status."""
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            status = self.process.wait()
        # Children (data loaders) that outlived it would keep its locks and its GPU.
        self.signal(signal.SIGKILL)
        self.link.close()
        return status


class _Pool:
    """Serves a queue of specs with workers until all have an outcome."""

    def __init__(self, launcher: LocalLauncher, specs: list[RunSpec], home: Home, uri: str, on_event: OnEvent) -> None:
        self.outcomes: dict[str, RunOutcome] = {}
        self._launcher, self._home, self._uri, self._on_event = launcher, home, uri, on_event
        self._queue = deque(specs)
        self._devices = gpus()
        self._size = min(launcher.jobs or len(self._devices) or cores(), len(specs))
        self._workers: dict[Connection, _Worker] = {}

    def run(self) -> dict[str, RunOutcome]:
        """Outcomes by hash."""
        with _sigterm_as_interrupt():
            for index in range(self._size):
                self._start(index)
            while self._workers:
                for link in wait(list(self._workers)):
                    self._hear(self._workers[link])  # type: ignore[index]
        return self.outcomes

    def _start(self, index: int) -> None:
        setup = {"path": sys.path, "home": str(self._home.root.absolute()), "target": self._launcher.target,
                 "tracking_uri": self._uri}  # fmt: skip
        environment = worker_environment(index, self._devices, self._launcher.threads)
        environment[HOME_VARIABLE] = setup["home"]  # caches belong there, too
        worker = _Worker(index, environment, setup)
        self._workers[worker.link] = worker
        worker.give(self._queue.popleft())

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.link.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if message[0] == "event":
            self._on_event(message[1])
        elif message[0] == "done":
            self.outcomes[message[1].run] = message[1]
            worker.spec = None
            self._next(worker)
        elif message[0] == "interrupted":
            self._ended(worker, "stopped by a signal; it continues from its checkpoint on the next run", record=False)

    def _next(self, worker: _Worker) -> None:
        if self._queue:
            worker.give(self._queue.popleft())
            return
        with suppress(OSError):
            worker.link.send(("stop",))
        del self._workers[worker.link]
        worker.bury()

    def _died(self, worker: _Worker) -> None:
        assert worker.spec is not None
        worker.signal(signal.SIGKILL)
        self._ended(worker, _obituary(worker.process.wait(), self._log_tail(worker.spec)), record=True)

    def _ended(self, worker: _Worker, message: str, *, record: bool) -> None:
        """Settle the run of a worker that is gone, and let a new worker go on with the rest."""
        spec, _ = worker.spec, self._workers.pop(worker.link)
        worker.bury()
        assert spec is not None
        if record:
            record_failure(spec, message, home=self._home, tracking_uri=self._uri)
        self.outcomes[spec.hash] = failed(spec, message)
        self._on_event(RunFinished(spec.hash, "failed", message=message))
        if self._queue:
            self._start(worker.index)

    def _log_tail(self, spec: RunSpec) -> str:
        try:
            lines = (self._home.run(spec.hash).root / LOG_FILE).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:200] if lines else ""

    def stop_all(self) -> int:
        """Have every worker write a checkpoint and stop; returns how many were killed. Ctrl-C again kills all."""
        self._queue.clear()
        killed, give_up = 0, time.monotonic() + self._launcher.grace_seconds
        try:
            for worker in self._workers.values():
                worker.signal(signal.SIGTERM)
            self._on_event(
                Notice("", f"stopping {len(self._workers)} runs at a checkpoint (Ctrl-C again to kill them)")
            )
            while self._workers and (left := give_up - time.monotonic()) > 0:
                for link in wait(list(self._workers), timeout=left):
                    self._last_words(self._workers[link])  # type: ignore[index]
        except KeyboardInterrupt:
            pass
        for worker in list(self._workers.values()):
            killed += 1
            worker.signal(signal.SIGKILL)
        return killed

    def _last_words(self, worker: _Worker) -> None:
        try:
            message = worker.link.recv()
        except (EOFError, OSError):
            del self._workers[worker.link]
            worker.bury()
            return
        if message[0] == "event":
            self._on_event(message[1])
        elif message[0] == "done":
            # It finished, or was stopped so late that it did: a result all the same.
            self.outcomes[message[1].run] = message[1]
            with suppress(OSError):
                worker.link.send(("stop",))

    def close(self) -> None:
        """End whatever is still there."""
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)
            worker.bury()
        self._workers.clear()


def _obituary(status: int, last_line: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": killed from outside, or out of memory" if name == "SIGKILL" else ""
        text = f"the worker process was ended by {name}{hint}"
    else:
        text = f"the worker process exited with status {status}"
    return f"{text} (last line of its log: {last_line})" if last_line else text


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a launch as Ctrl-C does; only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
