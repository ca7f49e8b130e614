"""The exclusive right to write in a folder, for one process at a time on any number of machines. No torch here.

The holder is whoever's file `.lease-N` has the highest number N in the folder (`lease_files.py`); no lock of the file
system is needed. A holder renews its file's time of change from a thread. A lease that was not renewed for its `ttl`
may be taken by making the next number, and so may, at once, that of a process of this machine that is dead. The number
is a fencing token: it only rises, and a holder whose number is not the highest has lost.

A process that was stopped, suspended or cut off learns of its loss from `Lease.check`, which `storage` calls for every
file below the folder just before it becomes visible.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.lease_files import (
    Owner,
    candidate_file,
    claim,
    highest_of,
    lease_file,
    read_owner,
    this_owner,
    write_owner,
)
from vlm_ablate.storage import file_time, guard, storage_errors, unguard

TTL_VARIABLE = "VLM_ABLATE_LEASE_SECONDS"
"""Environment variable: seconds after which the lease of a process that shows no life may be taken. Shares that stall
for longer need more; all processes that share a home should agree."""
TTL_SECONDS = 60.0
POLL_SECONDS = 0.2


class LeaseLost(VlmAblateError):
    """Another process has the folder now; this one must not write there any more."""


class LeaseHeld(VlmAblateError):
    """Another process has the folder, and the caller does not want to wait."""


class Lease:
    """A held lease. As a context manager it is released on the way out. Made by `Lease.acquire`."""

    def __init__(self, folder: Path, owner: Owner, token: int, heartbeat: float,
                 on_beat: Callable[[Lease], None] | None) -> None:  # fmt: skip
        self.folder, self.owner, self.token = folder, owner, token
        self._file = lease_file(folder, token)
        self._heartbeat, self._on_beat = heartbeat, on_beat
        self._renewed = self._looked = _now()
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {folder.name}", daemon=True)

    @classmethod
    def acquire(
        cls,
        folder: Path,
        *,
        ttl: float | None = None,
        heartbeat: float | None = None,
        wait: bool = True,
        waiting: Callable[[Owner | None], None] | None = None,
        on_beat: Callable[[Lease], None] | None = None,
    ) -> Lease:
        """Take the right to write in a folder, which is made when it is not there.

        While it is held, `storage.atomic_file` and all that asks `storage.check_writable` refuse to write below the
        folder once the lease is lost.

        Args:
            ttl: seconds without renewal after which others may take it; None: `TTL_VARIABLE`, or 60.
            heartbeat: seconds between two renewals; None: a quarter of `ttl`.
            wait: until it is free or has expired.
            waiting: called now and then while another holds it, with who that is where its file can be read.
            on_beat: called after each renewal, and once after a loss, in the thread that renews; an error of it ends
                nothing.

        Raises:
            LeaseHeld: another holds it, and `wait` is False.
            StorageError: the folder cannot be written.
        """
        ttl = _default_ttl() if ttl is None else ttl
        owner = this_owner(ttl)
        with storage_errors("take the lease of", folder):
            folder.mkdir(parents=True, exist_ok=True)
            token = _take(folder, owner, wait, waiting)
        lease = cls(folder, owner, token, ttl / 4 if heartbeat is None else heartbeat, on_beat)
        guard(folder, lease.check)
        lease._thread.start()
        return lease

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """Whether the loss is known already; `check` looks anew."""
        return self._lost is not None

    def check(self, recent: float = 0.0) -> None:
        """Make sure that this process may still write in the folder.

        A lease that was not renewed in time (the process was stopped, the machine suspended) and that nobody took is
        renewed and goes on.

        Args:
            recent: how many seconds ago it may have been looked at, for what is written often. Nobody takes a lease
                that was renewed just before, so this lets no more through as long as it is well below the `ttl`.

        Raises:
            LeaseLost: another has it, or has had it.
            StorageError: the folder cannot be reached.
        """
        if self._lost is None and _now() - self._looked >= min(recent, self.owner.ttl / 4):
            with storage_errors("renew the lease of", self.folder):
                if _now() - self._renewed > self._heartbeat:
                    self._renew()
                self._look()
        if self._lost is not None:
            raise LeaseLost(
                f"{self.folder} is written by another process now ({self._lost}): this one showed no life for"
                f" {self.owner.ttl:g} s, and has stopped without writing",
                hint="nothing is lost: the other process goes on from the last checkpoint; where a machine or a network"
                f" share stalls for longer, set {TTL_VARIABLE}",
            )

    def release(self) -> None:
        """Give it back; its number stays known. What is lost already is left alone."""
        if self._ended.is_set():
            return
        self._ended.set()
        unguard(self.folder, self.check)
        if self._thread is not threading.current_thread():
            self._thread.join(5)
        with contextlib.suppress(OSError):  # taken or moved away; else it expires by itself
            found = read_owner(self._file)
            if found is None or found.id != self.owner.id:  # of the folder that stands in the place of the moved one
                return
            os.rename(self._file, self._file.with_name(f"{self._file.name}-free"))

    def _renew(self) -> None:
        now = _now()
        try:
            os.utime(self._file)
            self._renewed = now
        except (FileNotFoundError, NotADirectoryError):
            self._look()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self._look()

    def _look(self) -> None:
        """Notice a loss. Its own file is opened, not only looked up: network file systems keep what they looked up."""
        now = _now()
        highest, free = highest_of(self.folder)
        if highest == self.token and not free and (found := read_owner(self._file)) and found.id == self.owner.id:
            self._looked = now
            return
        other = read_owner(lease_file(self.folder, highest)) if highest > self.token else None
        self._lost = str(other) if other else "it has given it back since, or the folder was moved"

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat) and self._lost is None:
            with contextlib.suppress(OSError):  # a share that is away for a while: the next beat tries again
                self._renew()
            if self._on_beat is not None:
                with contextlib.suppress(Exception):
                    self._on_beat(self)


def holder(folder: Path) -> Owner | None:
    """Who holds the lease of a folder now; None when nobody does, its process is dead or it has expired."""
    try:
        highest, free = highest_of(folder)
        file = lease_file(folder, highest)
        owner = None if free or not highest else read_owner(file)
        if owner is None or owner.dead:
            return None
        changed = file.stat().st_mtime
        age = time.time() - changed
        if not 0 <= age <= owner.ttl:  # or the clock of this machine is wrong
            age = file_time(folder) - changed
        return owner if age <= owner.ttl else None
    except OSError:
        return None


def _take(folder: Path, owner: Owner, wait: bool, waiting: Callable[[Owner | None], None] | None) -> int:
    """Make the next number as soon as that is allowed; returns it."""
    candidate = candidate_file(folder)
    patience = _Patience(owner.ttl)
    try:
        while True:
            try:
                written = write_owner(candidate, owner)
            except FileNotFoundError:  # the folder was put aside while we waited
                folder.mkdir(parents=True, exist_ok=True)
                continue
            highest, free = highest_of(folder)
            held = None if free or not highest else read_owner(lease_file(folder, highest))
            if not highest or free or patience.over(lease_file(folder, highest), held, written):
                if claim(candidate, lease_file(folder, highest + 1), owner):
                    return highest + 1
                continue
            if not wait and (held or lease_file(folder, highest).exists()):  # else it was given back this moment
                raise LeaseHeld(f"{folder} is written by another process now ({held or 'which cannot be read'})")
            if waiting is not None:
                waiting(held)
            time.sleep(POLL_SECONDS)
    finally:
        candidate.unlink(missing_ok=True)


class _Patience:
    """Whether a lease has expired: by the file system's clock at first sight, by our own from then on.

    So clocks of machines that differ do not matter, and nobody waits for the lease of a machine that died long ago.
    """

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._seen: tuple[str, int] | None = None
        self._until = 0.0

    def over(self, file: Path, owner: Owner | None, now: float) -> bool:
        """
        Args:
            owner: None: its file cannot be read, or not yet.
            now: of the file system's clock, s.
        """
        if owner is not None and owner.dead:
            return True
        try:
            changed = file.stat().st_mtime_ns
        except FileNotFoundError:
            return False  # given back or taken this moment
        ttl = owner.ttl if owner else self._ttl
        if self._seen is None or self._seen[0] != file.name:
            self._until = _now() + min(ttl, max(0.0, ttl - (now - changed / 1e9)))
        elif self._seen[1] != changed:
            self._until = _now() + ttl
        self._seen = (file.name, changed)
        return _now() >= self._until


def _default_ttl() -> float:
    text = os.environ.get(TTL_VARIABLE, "")
    try:
        ttl = float(text) if text else TTL_SECONDS
    except ValueError:
        ttl = -1.0
    if not 1 <= ttl <= 86_400:
        raise StorageError(f"{TTL_VARIABLE} is {text!r}, which is no number of seconds from 1 to 86400")
    return ttl


def _now() -> float:
    """Seconds of a clock that never goes back and counts while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
