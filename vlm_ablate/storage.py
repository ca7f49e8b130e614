"""Files that are whole or absent, locks, and clear errors when the disk will not take them. No torch here.

Whoever may write in a folder can put something there first: files are made new beside their target, no link followed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vlm_ablate.errors import StorageError

HOME_VARIABLE = "VLM_ABLATE_HOME"
"""Environment variable that names the home folder."""

_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EFBIG: "the file is too large for this file system",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a symbolic link is in the way",
    errno.EISDIR: "a folder of that name is in the way",
}
_PARTIAL = ".partial"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


_guards: dict[str, Callable[[float], None]] = {}
"""Folder -> what must be asked before anything below it becomes visible; see `lease.py`."""


def guard(folder: Path, check: Callable[[float], None]) -> None:
    """Have `check` asked before a file below `folder` becomes visible; it raises when this must not be.

    It is told how many seconds old its last look may be.
    """
    _guards[os.path.realpath(folder)] = check


def unguard(folder: Path, check: Callable[[float], None]) -> None:
    """Take back `guard`."""
    name = os.path.realpath(folder)
    if _guards.get(name) == check:
        del _guards[name]


def check_writable(path: Path, recent: float = 0.0) -> None:
    """Ask the guards of the folders that `path` lies in; for writers that do not use `atomic_file`.

    Args:
        recent: how many seconds old the guards' last look may be.

    Raises:
        LeaseLost: this process has lost the right to write there.
    """
    if not _guards:
        return
    place = Path(os.path.realpath(path.parent))
    for folder in (place, *place.parents):
        if (check := _guards.get(str(folder))) is not None:
            check(recent)


@contextmanager
def storage_errors(what: str, path: Path | str) -> Iterator[None]:
    """Turn the operating system's refusals to write into one clear `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRNOS:
            raise
        raise StorageError(
            f"cannot {what} {path}: {_STORAGE_ERRNOS[error.errno]}",
            hint=f"free space, or name a writable folder with {HOME_VARIABLE}; finished runs are kept",
        ) from error


@contextmanager
def atomic_file(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well.

    A reader, or whoever comes after a kill, sees the old content or the new, never half of it. What killed writers of
    the same `path` left is removed.

    Args:
        private: readable by its owner alone (mode 0600), for what may hold a secret.
        durable: on the disk itself at the end; else a machine that loses its power may lose it.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
        LeaseLost: this process has lost the right to write there; nothing is written.
    """
    with storage_errors("write", path):
        _sweep(path)
        partial, handle = _new_partial(path, 0o600 if private else 0o666)
        try:
            with open(handle, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                check_writable(path)
                os.replace(partial, path)  # while it is held: nobody takes it for a dead writer's
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """As `atomic_file`, for writers that want a name to write to: a file beside `path`, which takes its place."""
    with storage_errors("write", path):
        _sweep(path)
        partial, handle = _new_partial(path, 0o666)
        try:
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            check_writable(path)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def write_atomically(path: Path, data: bytes | str, *, private: bool = False, durable: bool = True) -> None:
    """Write the whole of `path` in one go (see `atomic_file`)."""
    with atomic_file(path, private=private, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def link_or_copy(file: Path, place: Path) -> None:
    """The same file or folder in another place, whole or absent: linked where the file system can, else copied.

    For what nobody changes.

    Raises:
        StorageError: it cannot be written.
        LeaseLost: this process has lost the right to write there.
    """
    with storage_errors("write", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        check_writable(place)
        partial = place.with_name(f".{place.name}{_PARTIAL}")
        if file.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(file, partial, copy_function=_link)
            os.replace(partial, place)
        else:
            partial.unlink(missing_ok=True)
            _link(file, partial)
            os.replace(partial, place)
            partial.unlink(missing_ok=True)  # nothing is replaced where the same file was there


def _link(file: str | Path, place: str | Path) -> None:
    try:
        os.link(file, place)
    except OSError:
        with atomic_path(Path(place)) as copy:
            shutil.copyfile(file, copy)


def fresh_file(path: Path, *, private: bool = False) -> IO[bytes]:
    """A new, empty file at `path`, opened for writing; what lay there (a link, not what it names) is removed.

    Raises:
        StorageError: it cannot be made.
    """
    with storage_errors("write", path):
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600 if private else 0o666)
        return open(handle, "wb")


def _new_partial(path: Path, mode: int) -> tuple[Path, int]:
    """A new file beside `path`, and its descriptor, which holds a lock on it: so a writer shows that it lives."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except FileExistsError:
            continue
        except FileNotFoundError as error:  # told of the folder, and not of a file that nobody named
            raise FileNotFoundError(error.errno, error.strerror, str(path.parent)) from error
        with suppress(OSError):  # a file system without locks: then nobody sweeps there either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return partial, handle
        os.close(handle)  # another writer swept it before the lock was taken


def _sweep(path: Path) -> None:
    """Remove the unfinished files of dead writers of `path`: those on which nobody holds a lock."""
    start = f".{path.name}."
    with suppress(OSError), os.scandir(path.parent) as found:
        for entry in found:
            if entry.name.startswith(start) and entry.name.endswith(_PARTIAL):
                _remove_if_dead(Path(entry.path))


def _remove_if_dead(partial: Path) -> None:
    try:
        handle = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link that somebody put there; what it names stays
            partial.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink(missing_ok=True)
    except OSError:
        pass  # its writer lives, or it is not ours to remove
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` for this process; it is freed when the holder dies.

    It keeps two processes from making the same thing twice, in caches and stores, whose files are whole or absent with
    or without it: where the file system has no locks, there is none. What must be written by one alone has a lease
    (`lease.py`).

    Args:
        waiting: called now and then while another process holds it.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors("lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if waiting else 0))
                break
            except BlockingIOError:
                if waiting:
                    waiting()
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        yield
    finally:
        os.close(handle)


def file_time(folder: Path) -> float:
    """Seconds since the epoch by the clock of the file system that holds a folder, which times of change are of; where
    nothing may be written, by this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces.

    Raises:
        StorageError: it cannot be read.
    """
    with storage_errors("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
