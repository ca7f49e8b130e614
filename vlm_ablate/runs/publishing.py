"""Keeps a tracking store up to date with a run while it goes, from a thread. A store that fails stops nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from vlm_ablate.config.base import FieldError
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseHeld, LeaseLost
from vlm_ablate.masking import masked
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.names import asked_for
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import view_of
from vlm_ablate.storage import check_writable
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.publish import RunView, is_published, publish
from vlm_ablate.tracking.sqlite_reader import SqliteReader, sqlite_path

FLUSH_SECONDS = 10.0
"""Time between two looks at what is new on disk."""
RETRY_SECONDS = 15.0
"""Time before a store that failed is tried again; doubles up to eight times that."""
CLOSE_SECONDS = 30.0
"""Time that the end of a run waits for the store; what is missing then follows with the next `run`."""

NOWHERE = "nowhere:"
"""In place of a store's address: whoever started the run publishes it, as the store is a file of another machine."""

Notice = Callable[[str], None]


class Publishing:
    """As a context manager: publishes a run now and then, and once more on the way out."""

    def __init__(self, spec: RunSpec, home: Home, tracking_uri: str, notice: Notice,
                 flush_seconds: float = FLUSH_SECONDS) -> None:  # fmt: skip
        self._spec, self._home, self._uri, self._notice = spec, home, tracking_uri, notice
        self._flush, self._failures, self._retry_at = flush_seconds, 0, 0.0
        self._closing = threading.Event()
        self._left = False
        """The end of the run waits no longer, and others may have its lease."""
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def __enter__(self) -> Publishing:
        if self._uri != NOWHERE:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._uri == NOWHERE:
            return
        self._retry_at = 0.0
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._left = True

    def _loop(self) -> None:
        while True:
            last = self._closing.wait(self._flush if self._failures or self._thread_ran else 0.0)
            self._thread_ran = True
            if last or time.monotonic() >= self._retry_at:
                self._publish()
            if last:
                return

    _thread_ran = False

    def _allowed(self) -> None:
        if self._left:
            raise LeaseLost("the run has ended, and waits for the store no longer")

    def _publish(self) -> None:
        try:
            self._allowed()
            publish_run(self._spec, self._home, self._uri, self._notice, self._allowed)
        except LeaseLost:
            return  # who has the run now publishes it
        except Exception as error:  # nothing that a store does may stop a run; all of it is on disk
            self._retry_at = time.monotonic() + RETRY_SECONDS * min(2**self._failures, 8)
            self._failures += 1
            if self._failures == 1:
                reason = masked(str(error).strip().partition("\n")[0])[:200]
                self._notice(f"the tracking store failed; what it lacks is on disk and follows later ({reason})")
            return
        if self._failures:
            self._notice("the tracking store answers again and has everything")
        self._failures = 0


def publish_run(
    spec: RunSpec, home: Home, tracking_uri: str, notice: Notice, allowed: Callable[[], None] = lambda: None
) -> None:
    """Give the store what it lacks of a run; for the holder of the run's lease.

    Args:
        allowed: see `publish`.

    Raises:
        TrackingError: the store fails.
        StorageError: a file of the run is damaged, or the note on what was given cannot be written.
        LeaseLost: the lease is lost; nothing is given.
    """
    publish(_view(spec, home, tracking_uri), tracking_uri, run_folder(home, spec.id).published, notice, allowed)


def _view(spec: RunSpec, home: Home, tracking_uri: str) -> RunView:
    check_writable(run_folder(home, spec.id).file)
    return view_of(find_results(spec, home), with_weights=sqlite_path(tracking_uri) is None)


def publish_missing(home: Home, tracking_uri: str, notice: Notice) -> int:
    """Give the store the runs of this home that it lacks or that ended while it was away; returns how many.

    A run that another process computes or publishes now is left to it; what cannot be read stops none of the others.

    Raises:
        TrackingError: the store fails.
    """
    known = None
    path = sqlite_path(tracking_uri)
    if path is not None and path.exists():
        known = SqliteReader(path).run_ids()
    given, unread = 0, []
    for folder, body in asked_for(home):
        if body.get("status") in (None, "running"):
            continue
        if is_published(str(body["status"]), folder.published, tracking_uri, known):
            continue
        try:
            spec = RunSpec.from_dict(body["spec"])
        except (TypeError, KeyError, ValueError, VlmAblateError, FieldError):
            unread.append(body["id"])
            continue
        with suppress(LeaseHeld), Lease.acquire(folder.root, wait=False):
            try:
                view = _view(spec, home, tracking_uri)
            except (VlmAblateError, ValueError, KeyError, TypeError) as error:
                told = error.message if isinstance(error, VlmAblateError) else f"{type(error).__name__}: {error}"
                notice(f"not given to the tracking store: {spec.run_name} ({folder.root}): {told}")
                continue
            if view.status == schema.RUNNING:
                continue  # its results were put aside, and nobody computes them now
            publish(view, tracking_uri, folder.published, notice)
            given += 1
    if unread:
        notice(f"not given to the tracking store, as this version does not read what they ask for: {len(unread)} "
               f"earlier run{'s' * (len(unread) > 1)} ({unread[0]}{', ...' * (len(unread) > 1)})")  # fmt: skip
    return given
