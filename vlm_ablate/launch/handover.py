"""The folder through which runs are handed to processes elsewhere, and through which these tell how it goes.

Both sides see the home under the same path. A launch has a folder there:

```
HOME/launches/ID/
    token             what a machine must be able to read to show that it sees this home
    .lease-N          held as long as the command lives; see `leftovers.py`
    setup.json        what all runs of the launch share
    runs/N-RUN/       one handing over of one run
        task.json     the run
        job           what an engine calls its job, where jobs outlive the command
        said-*.jsonl  what a process said that took it: events, and how it ended (a file for each attempt)
        withdrawn     made by the launcher: nobody waits for it any more
```
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch.wire import Message, from_line, to_line
from vlm_ablate.runs.folder import read_json, write_json
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import storage_errors, write_atomically


class HomeNotShared(VlmAblateError):
    """A machine that was to compute runs does not see the home."""


@dataclass(frozen=True)
class Handover:
    """The folder of one launch."""

    root: Path
    token: str

    @classmethod
    def create(cls, home: Home, setup: dict[str, Any]) -> Handover:
        """A new one.

        Args:
            setup: what all runs share, as plain data.

        Raises:
            StorageError: the home cannot be written.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        made = cls(home.launches / name, secrets.token_hex(16))
        with storage_errors("create", made.root):
            (made.root / "runs").mkdir(parents=True)
        write_json(made.root / "setup.json", setup)
        write_atomically(made.root / "token", made.token)
        return made

    def task(self, number: int, spec: RunSpec) -> Task:
        """Write down a run that is handed over."""
        task = Task(self.root / "runs" / f"{number:04d}-{spec.id}")
        with storage_errors("create", task.root):
            task.root.mkdir()
        write_json(task.root / "task.json", {"id": spec.id, "name": spec.run_name, "spec": spec.to_dict()})
        return task

    def remove(self) -> None:
        """Remove the folder, once nobody needs it."""
        shutil.rmtree(self.root, ignore_errors=True)


def check_home(root: str, token: str) -> None:
    """On a machine that is to compute runs: show that it sees the launch's folder.

    Raises:
        HomeNotShared: it does not.
    """
    seen = Path(root) / "token"
    try:
        there = seen.read_text()
    except OSError as error:
        there = f"{error.strerror or error}"
    if there != token:
        raise HomeNotShared(
            f"the machine {socket.gethostname()} does not see the home: {seen}: {there[:100]}",
            hint="put the home on a file system that all machines mount at the same path: --home or VLM_ABLATE_HOME",
        )


@dataclass(frozen=True)
class Task:
    """One handing over of one run."""

    root: Path

    def read(self) -> dict[str, Any]:
        """What is to be done: the run (`id`, `name`, `spec`) and what all runs of the launch share.

        Raises:
            StorageError: it cannot be read.
        """
        setup, own = read_json(self.root.parents[1] / "setup.json"), read_json(self.root / "task.json")
        if setup is None or own is None:
            raise StorageError(f"{self.root} holds no run to compute; the launch that made it may be over")
        return {**setup, **own}

    def note_job(self, name: str) -> None:
        """Write down what the engine calls the job.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomically(self.root / "job", name)

    @property
    def job(self) -> str:
        """What the engine calls the job; empty where nobody wrote it down."""
        try:
            return (self.root / "job").read_text().strip()
        except OSError:
            return ""

    def withdraw(self) -> None:
        """Tell whoever has it, or takes it later, to leave it, after a checkpoint."""
        with storage_errors("write", self.root):
            (self.root / "withdrawn").touch()

    @property
    def withdrawn(self) -> bool:
        """Whether nobody waits for it any more. A share that is away for a moment does not say so."""
        try:
            return (self.root / "withdrawn").exists() or not self.root.exists()
        except OSError:
            return False


class Saying:
    """For the process that computes a run: lines that the launcher reads as they come. Fails as a socket does."""

    def __init__(self, task: Task) -> None:
        name = f"said-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.open(task.root / name, flags, 0o644)

    def send(self, message: Message) -> None:
        """Say one thing; whole lines only, so that a reader never takes half of one for the whole."""
        os.write(self._file, to_line(message))


class Listening:
    """For the launcher: what was said of a task since the last look, by all attempts at it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._read: dict[str, int] = {}
        """File -> bytes of it that were read."""

    def __call__(self) -> Iterator[Message]:
        """New messages. A share that is away for a moment says nothing."""
        try:
            names = sorted(name for name in os.listdir(self._task.root) if name.startswith("said-"))
        except OSError:
            return
        for name in names:
            yield from self._of(name)

    def _of(self, name: str) -> Iterator[Message]:
        start = self._read.get(name, 0)
        try:
            # Opened anew each time: that is when network file systems look for what others wrote.
            with open(self._task.root / name, "rb") as file:
                file.seek(start)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read[name] = start + len(whole)
        for line in whole.splitlines():
            try:
                yield from_line(line)
            except ValueError:  # a machine that died while it wrote
                continue


@dataclass(frozen=True)
class Queued:
    """A run that was handed to an engine and that no process has taken yet."""

    id: str
    name: str
    experiment: str
    launcher: str
    host: str
    """Where the command runs that asked for it."""
    since: float
    """Seconds since the epoch."""


def queued(home: Home) -> list[Queued]:
    """Runs of this home that wait in engines, in the order in which they were handed over."""
    found = []
    for file in sorted(home.launches.glob("*/runs/*/task.json")):
        task = Task(file.parent)
        try:
            if task.withdrawn or any(task.root.glob("said-*")):
                continue
            data, since = task.read(), file.stat().st_mtime
            experiment, launcher, host = str(data["spec"]["experiment"]), str(data["launcher"]), str(data["host"])
            found.append(Queued(str(data["id"]), str(data["name"]), experiment, launcher, host, since))
        except (StorageError, OSError, KeyError, TypeError):
            continue  # it is being removed
    return found
