"""Runs specs in worker processes of this machine: one a GPU, or one a core, each serving many runs.

A run of several ranks has a worker that holds as many GPUs or cores: it is the first rank and starts the others.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from bisect import insort
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import RunFinished
from vlm_ablate.launch.base import Context, Placement, RunFuture, stop_early
from vlm_ablate.launch.configs import LocalConfig
from vlm_ablate.launch.devices import cores, gpus, worker_environment
from vlm_ablate.runs.endings import INTERRUPTED, exit_message
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.live import LAUNCHER_VARIABLE
from vlm_ablate.runs.meeting import Meeting
from vlm_ablate.runs.outcome import RunOutcome, failed, note_from_outside
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import HOME_VARIABLE


class LocalLauncher:
    """Worker processes on this machine. A thread hears them; futures complete and events arrive from there."""

    def __init__(self, config: LocalConfig) -> None:
        self.jobs, self.threads = config.jobs, config.threads
        self._devices: list[str] = []
        self._have = 0
        """GPUs, or without any, cores."""
        self._queue: deque[tuple[RunFuture, Placement]] = deque()
        """In the order of their placements."""
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._closing = False
        self._broken: Exception | None = None
        """Why nobody hears the workers any more."""
        self._ours, self._wake = socket.socketpair()
        self._ours.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="workers", daemon=True)

    def open(self, context: Context) -> None:
        """See `Launcher.open`."""
        self._context = context
        self._devices = gpus()
        self._have = len(self._devices) or cores()
        self._size = self.jobs or self._have
        self._places = max(self._size, self._have)
        """Each a GPU or a core, some of them twice where more runs are asked for than there are."""
        self._thread.start()

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        """See `Launcher.submit`."""
        if (placement.nodes or 1) > 1 and Meeting.of_environment() is None:
            raise VlmAblateError(
                f"{placement.nodes} nodes a run: this launcher has this machine only",
                hint="start the same command on each machine with torchrun (docs/how-to/several-gpus.md), or use"
                " --launcher slurm",
            )
        wanted = placement.devices or 1
        if wanted > 1 and wanted > self._have:
            kind = "GPUs" if self._devices else "cores and no GPU"
            raise VlmAblateError(
                f"{wanted} devices a run: this machine has {self._have} {kind}",
                hint=f"--devices {self._have} is the most; a micro-batch that is smaller needs less memory",
            )
        future = RunFuture(spec, self._stop)
        with self._lock:
            broken = self._broken
            if not self._closing and broken is None:
                insort(self._queue, (future, placement), key=lambda queued: queued[1].order)
        if self._closing:  # what waited for a run that is stopped now
            future.cancel()
        elif broken is not None and future.set_running_or_notify_cancel():
            future.set_exception(broken)
        self._poke()
        return future

    def close(self, grace_seconds: float = 0.0) -> int:
        """See `Launcher.close`."""
        give_up = time.monotonic() + grace_seconds
        with self._lock:
            self._closing = True
            queued, self._queue = [future for future, _ in self._queue], deque()
            busy = [worker for worker in self._workers if worker.future is not None]
        for future in queued:
            future.cancel()
        try:
            if grace_seconds:
                for worker in busy:
                    worker.signal(signal.SIGTERM)
                while any(worker.future is not None for worker in busy) and time.monotonic() < give_up:
                    time.sleep(0.05)
        except KeyboardInterrupt:
            pass
        killed = 0
        for worker in list(self._workers):
            if worker.future is not None:
                killed += 1
                worker.signal(signal.SIGKILL)
            else:
                worker.dismiss()
        self._poke()
        if self._thread.is_alive():
            self._thread.join(10)
        return killed

    def _poke(self) -> None:
        with suppress(OSError):
            self._wake.send(b"!")

    def _stop(self, future: RunFuture) -> None:
        if future.cancel():
            return
        stop_early(future, self._context.home)  # heard within a second, also by a worker that only starts
        with self._lock:  # meanwhile its worker is given no other run
            worker = next((w for w in self._workers if w.future is future), None)
            if worker is not None and worker.begun:
                worker.signal(signal.SIGUSR1)

    def _listen(self) -> None:
        """Hear the workers; whatever goes wrong here is the outcome of all that runs, never a wait without end."""
        try:
            self._loop()
        except Exception as error:
            with self._lock:
                self._broken = error
                waiting = [future for future, _ in self._queue]
                futures = [*waiting, *(worker.future for worker in self._workers if worker.future is not None)]
                self._queue.clear()
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _loop(self) -> None:
        while True:
            with self._lock:
                closing = self._closing
                if not closing:
                    self._assign()
            if closing and not self._workers:
                return
            links = {worker.link: worker for worker in self._workers}
            for ready in wait([*links, self._ours]):
                if ready is self._ours:
                    with suppress(BlockingIOError):
                        self._ours.recv(4096)
                elif (worker := links.get(ready)) is not None:  # type: ignore[call-overload]  # it gives back what it was given
                    self._hear(worker)

    def _assign(self) -> None:
        """Give queued runs to idle workers, and start workers while there is work for them."""
        while self._queue:
            asked = self._queue[0][1].devices
            wanted, devices = asked or 1, [] if asked == 0 else self._devices
            idle = [worker for worker in self._workers if worker.future is None]
            fitting = (worker for worker in idle if worker.fits(wanted, devices))
            worker = next(fitting, None)
            if worker is None:
                if len(self._workers) - len(idle) >= self._size:
                    return
                places = self._free(wanted)
                if places is None or len(self._workers) >= self._size:
                    for other in idle:  # their places are wanted; they leave, and this is tried again
                        other.dismiss()
                    return
                worker = self._start_worker(places, devices)
            future, _ = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                worker.give(future)

    def _free(self, wanted: int) -> tuple[int, ...] | None:
        """Places that no worker has; for several ranks each another GPU or core. None: not so many."""
        taken = {place for worker in self._workers for place in worker.places}
        free = [place for place in range(self._places if wanted == 1 else self._have) if place not in taken]
        return tuple(free[:wanted]) if len(free) >= wanted else None

    def _start_worker(self, places: tuple[int, ...], devices: list[str]) -> _Worker:
        home = str(self._context.home.root.absolute())
        environment = worker_environment(places, devices, self.threads)
        if self._devices and not devices:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        environment |= {HOME_VARIABLE: home, LAUNCHER_VARIABLE: "local"}  # caches belong there, too
        setup = {
            "path": sys.path,
            "home": home,
            "target": self._context.target,
            "tracking_uri": self._context.tracking_uri,
        }
        worker = _Worker(places, devices, environment, setup)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.link.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if message[0] == "event":
            worker.begun = True
            self._context.on_event(message[1])
        elif message[0] == "done":
            self._finish(worker, message[1])
        elif message[0] == "interrupted":
            self._end(worker, INTERRUPTED, noted=False)

    def _finish(self, worker: _Worker, outcome: RunOutcome) -> None:
        future, worker.future = worker.future, None
        if future is not None:
            future.set_result(outcome)

    def _died(self, worker: _Worker) -> None:
        if worker.future is None:
            self._remove(worker)
            return
        worker.signal(signal.SIGKILL)
        folder = run_folder(self._context.home, worker.future.spec.id)
        self._end(worker, exit_message(worker.process.wait(), folder), noted=True)

    def _end(self, worker: _Worker, message: str, *, noted: bool) -> None:
        """Settle the run of a worker that is gone; another worker takes its place when there is work."""
        future = worker.future
        self._remove(worker)
        if future is None:
            return
        worker.future = None
        if noted:
            with suppress(VlmAblateError):
                note_from_outside(future.spec, self._context.home, "failed", message)
        self._context.on_event(RunFinished(future.spec.id, "failed", message=message))
        future.set_result(failed(future.spec, message, died=True))

    def _remove(self, worker: _Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
        worker.reap()


class _Worker:
    """The parent's side of one worker process."""

    def __init__(
        self, places: tuple[int, ...], devices: list[str], environment: dict[str, str], setup: dict[str, Any]
    ) -> None:
        self.places, self._devices = places, devices
        self.future: RunFuture | None = None
        self.begun = False
        """It has said something of its run: before, the signal that stops a run would end it."""
        self.leaving = False
        """Told to end: it reads that before anything that is sent to it later."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "vlm_ablate.launch.worker", str(theirs.fileno())]
        with theirs:
            # A session of its own: Ctrl-C reaches it only through us, and all its children can be ended with it.
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self.link: Connection[Any, Any] = Connection(ours.detach())
        self.link.send(("setup", setup))

    def fits(self, wanted: int, devices: list[str]) -> bool:
        """Whether it can take a run of so many ranks, with the GPUs of this machine or, of an empty list, without."""
        return len(self.places) == wanted and self._devices == devices and not self.leaving

    def give(self, future: RunFuture) -> None:
        """Start a run; a worker that has just died is noticed when its answer is read."""
        self.future, self.begun, spec = future, False, future.spec
        with suppress(OSError):
            self.link.send(("run", {"spec": spec.to_dict(), "id": spec.id, "name": spec.run_name}))

    def dismiss(self) -> None:
        """Tell an idle worker to end."""
        self.leaving = True
        with suppress(OSError):
            self.link.send(("stop",))

    def signal(self, number: int) -> None:
        """Send a signal to the worker alone (SIGKILL: to everything it started, too)."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)

    def reap(self) -> int:
        """Wait for a worker that has ended or must, end its children; returns its exit status."""
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            status = self.process.wait()
        # Children (data loaders) that outlived it would keep its locks and its GPU.
        self.signal(signal.SIGKILL)
        self.link.close()
        return status
