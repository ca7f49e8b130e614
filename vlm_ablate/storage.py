"""Files that are whole or absent, locks, and clear errors when the disk will not take them. No torch here."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
}


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
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well.

    A reader, or whoever comes after a kill, sees the old content or the new, never half of it.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors("write", path):
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write the whole of `path` in one go (see `atomic_file`)."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` for this process; it is freed when the holder dies.

    Args:
        waiting: called now and then while another process holds it.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors("lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if waiting else 0))
                break
            except BlockingIOError:
                if waiting:
                    waiting()
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)
