"""Hands operations to the store from a background thread. A store that fails never stops the run: see `Spool`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from vlm_ablate.tracking import operations
from vlm_ablate.tracking.operations import Operation, RunKey, RunWriter, is_permanent
from vlm_ablate.tracking.spool import Spool

FLUSH_SECONDS = 10.0
"""Time between deliveries of metrics: one request for all points since the last."""
RETRY_SECONDS = 15.0
"""Time before a store that failed is tried again; doubles up to eight times that."""

Notice = Callable[[str], None]


class Delivery:
    """Buffers metric points, and delivers them and other operations in order."""

    def __init__(self, key: RunKey, folder: Path, notice: Notice, *, flush_seconds: float = FLUSH_SECONDS,
                 retry_seconds: float = RETRY_SECONDS) -> None:  # fmt: skip
        self.writer = RunWriter(key)
        self._spool, self._notice = Spool(folder, key), notice
        self._flush_seconds, self._retry_seconds = flush_seconds, retry_seconds
        self._points: list[tuple[str, float, int, int]] = []
        self._pending: deque[Operation] = deque()
        self._wake = threading.Condition()
        self._closing = self._abandoned = False
        self._retry_at, self._failures = 0.0, 0
        self._held = ExitStack()
        try:
            # Another process may be replaying this spool. If it hangs, the run goes on: replaying twice does no harm.
            self._held.enter_context(self._spool.held(seconds=10))
        except OSError as error:
            notice(f"tracking records could not be kept if the store failed: {error}")
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def start(self, first: Sequence[Operation]) -> None:
        """Deliver the first operations at once, in the calling thread, then go on in the background."""
        self._pending.extend(first)
        self._drain()
        self._thread.start()

    def metric(self, key: str, value: float, step: int) -> None:
        """Add a metric point to the next batch. Costs a list append."""
        point = (key, float(value), operations.now_ms(), int(step))
        with self._wake:
            self._points.append(point)

    def send(self, *items: Operation) -> None:
        """Queue operations behind everything logged so far."""
        with self._wake:
            self._collect()
            self._pending.extend(items)
            self._wake.notify()

    def close(self, timeout: float) -> bool:
        """Deliver what is left, for at most `timeout` seconds; then spool it. True when the store has everything."""
        with self._wake:
            self._collect()
            self._closing, self._retry_at = True, 0.0
            self._wake.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._wake:
                self._abandoned = True
                self._failures += 1
                self._keep()
        self._held.close()
        return not self._pending and not self._spool.exists

    def _loop(self) -> None:
        while True:
            with self._wake:
                waiting = not self._pending or time.monotonic() < self._retry_at
                if waiting and not self._closing:
                    self._wake.wait(self._flush_seconds)
                self._collect()
                last = self._closing
            self._drain()
            if last:
                return

    def _collect(self) -> None:
        if self._points:
            self._pending.append(operations.metrics(self._points))
            self._points = []

    def _drain(self) -> None:
        """Deliver all pending operations, or spool them while the store is down."""
        if not self._pending and not self._spool.exists:
            return
        if time.monotonic() >= self._retry_at:
            try:
                self._spool.replay(self.writer, self._reject)
                while self._pending and not self._abandoned:
                    self._apply(self._pending[0])
                    with self._wake:
                        if not self._abandoned:
                            self._pending.popleft()
                self._recovered()
                return
            except Exception as error:
                self._failed(error)
        with self._wake:
            if not self._abandoned:
                self._keep()

    def _apply(self, operation: Operation) -> None:
        try:
            self.writer.apply(operation)
        except Exception as error:
            if not is_permanent(error):
                raise
            self._reject(operation, error)

    def _keep(self) -> None:
        try:
            self._spool.append(self._pending, self.writer.run_id)
            self._pending.clear()
        except OSError as error:
            # Nowhere to put it: it stays in memory, and training goes on.
            if self._failures <= 1:
                self._notice(f"tracking records cannot be kept on disk either: {error}")

    def _failed(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + self._retry_seconds * min(2**self._failures, 8)
        self._failures += 1
        if self._failures == 1:
            reason = str(error).strip().partition("\n")[0][:200]
            self._notice(f"the tracking store failed; records are kept and delivered later ({reason})")

    def _recovered(self) -> None:
        if self._failures:
            self._notice("the tracking store answers again; everything kept has been delivered")
        self._failures = 0

    def _reject(self, operation: Operation, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0][:200]
        self._notice(f"the tracking store refused {operation['op']}: {reason}")
