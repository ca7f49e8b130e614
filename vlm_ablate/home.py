"""Where a run leaves its traces on disk, and clear errors when the disk will not take them. No torch here."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vlm_ablate.errors import StorageError

ENVIRONMENT_VARIABLE = "VLM_ABLATE_HOME"
DEFAULT_FOLDER = "outputs"
MINIMUM_FREE = 200 * 2**20
"""Bytes that must be free before a run starts."""

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
            hint=f"free space, or name a writable folder with {ENVIRONMENT_VARIABLE}; finished runs are kept",
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


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: everything needed to continue it, and what it produced."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the resumable checkpoint."""
        return self.root / "checkpoints"

    @property
    def predictions(self) -> Path:
        """Folder of the predictions, written as the evaluation goes."""
        return self.root / "predictions"

    @property
    def artifacts(self) -> Path:
        """Folder of the files that go to the tracking store."""
        return self.root / "artifacts"

    @property
    def outcome(self) -> Path:
        """JSON record of how the run ended; present only once it has ended for good."""
        return self.root / "outcome.json"

    def prepare(self) -> None:
        """Create the folders.

        Raises:
            StorageError: they cannot be created.
        """
        with storage_errors("create", self.root):
            for folder in (self.root, self.checkpoints, self.predictions, self.artifacts):
                folder.mkdir(parents=True, exist_ok=True)

    def read_outcome(self) -> dict[str, Any] | None:
        """The recorded outcome, or None when the run has not ended."""
        try:
            return json.loads(self.outcome.read_text())
        except FileNotFoundError:
            return None

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        """Record how the run ended, atomically."""
        write_atomically(self.outcome, json.dumps(outcome, indent=1, sort_keys=True))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process; a second process that wants the same run waits. Freed when a holder dies."""
        return locked(self.root / ".lock")


@dataclass(frozen=True)
class Home:
    """The folder that holds the tracking store, artifacts, run folders and caches."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """`$VLM_ABLATE_HOME`, or `outputs` in the current folder."""
        return cls(Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER).absolute())

    @property
    def database(self) -> Path:
        """SQLite file of the local tracking store."""
        return self.root / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """URI of the local tracking store."""
        return f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        """Root of the local store's artifacts."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Parent of all run folders."""
        return self.root / "runs"

    @property
    def assets(self) -> Path:
        """Pictures and documents that were fetched."""
        return self.root / "assets"

    @property
    def cache(self) -> Path:
        """What can be thrown away and made again."""
        return self.root / "cache"

    def run(self, run_hash: str) -> RunFolder:
        """The folder of the run with that hash."""
        return RunFolder(self.runs / run_hash)

    def prepare(self, minimum_free: int = MINIMUM_FREE) -> Home:
        """Create the folders; prove that they take writes and that `minimum_free` bytes are free. Cheap: call it first.

        Raises:
            StorageError: a read-only folder, a full disk, or too little free space.
        """
        with storage_errors("create", self.root):
            for folder in (self.root, self.artifacts, self.runs, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
        with storage_errors("write in", self.root), tempfile.TemporaryFile(dir=self.root) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
        free = shutil.disk_usage(self.root).free
        if free < minimum_free:
            raise StorageError(
                f"only {free / 2**20:.0f} MiB are free under {self.root}, {minimum_free / 2**20:.0f} MiB are needed",
                hint=f"free space, or name another folder with {ENVIRONMENT_VARIABLE}",
            )
        return self
