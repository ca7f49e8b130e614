"""Ctrl-C and SIGTERM: while training, the step in progress ends and is saved; elsewhere they interrupt at once.

SIGUSR1 asks for an early stop of this run only: training ends after the step in progress, nothing else is interrupted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

KINDS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """Training stopped on request after a checkpoint. Not a KeyboardInterrupt, on which Lightning would exit."""


class Interruption:
    """Holds a request to stop. A second signal does not wait for the checkpoint."""

    def __init__(self) -> None:
        self.requested = False
        self.early = False
        """The request is for an early stop of this run, after which the process goes on."""
        self._deferring = self._handling = False

    def request(self) -> None:
        """Ask training to stop after the step in progress."""
        self.requested = True

    def request_early(self) -> None:
        """Ask this run only to stop, after the step in progress; as SIGUSR1 does. Callable from any thread."""
        if not self.requested:
            self.requested = self.early = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a first signal only sets `requested`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM in this block. Outside the main thread nothing can be installed and nothing is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {kind: signal.signal(kind, self._handle) for kind in KINDS}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._handle_early)
        self._handling = True
        try:
            yield
        finally:
            self._handling = False
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def reclaim(self) -> None:
        """Take the signals back from a library that has put handlers of its own in the way."""
        if self._handling:
            for kind in KINDS:
                signal.signal(kind, self._handle)

    def _handle_early(self, number: int, frame: FrameType | None) -> None:
        self.request_early()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested, self.early = self.requested and not self.early, True, False
        if not self._deferring or again:
            raise KeyboardInterrupt(signal.Signals(number).name)
