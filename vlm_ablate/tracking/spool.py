"""Operations that the store would not take, kept in a file beside the run until it does."""

from __future__ import annotations

import fcntl
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from vlm_ablate.errors import TrackingError
from vlm_ablate.home import Home
from vlm_ablate.storage import write_atomically
from vlm_ablate.tracking.operations import Operation, RunKey, RunWriter, is_permanent
from vlm_ablate.tracking.store import ensure_store

FOLDER = "spool"


class Spool:
    """One JSONL file: a header with the run's key (and id, once known), then operations in order."""

    def __init__(self, folder: Path, key: RunKey) -> None:
        name = re.sub(r"[^\w.-]+", "_", f"{key.experiment}--{key.arm or key.kind}")
        self.path = folder / FOLDER / f"{name}.jsonl"
        self._key = key
        self._lock = threading.Lock()

    @property
    def exists(self) -> bool:
        """Whether anything waits."""
        return self.path.exists()

    def append(self, operations: Sequence[Operation], run_id: str | None) -> None:
        """Add operations at the end.

        Raises:
            OSError: the file cannot be written.
        """
        lines = [json.dumps(operation, ensure_ascii=False) for operation in operations]
        with self._lock:
            if not self.exists:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lines.insert(0, json.dumps({"key": asdict(self._key), "run_id": run_id}))
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))

    def replay(self, writer: RunWriter, reject: Callable[[Operation, Exception], None]) -> None:
        """Apply everything that waits; what is left after an error stays in the file, and the error passes through."""
        if not self.exists:
            return
        _, run_id, operations = read_spool(self.path)
        writer.run_id = writer.run_id or run_id
        for i, operation in enumerate(operations):
            try:
                writer.apply(operation)
            except Exception as error:
                if is_permanent(error):
                    reject(operation, error)
                    continue
                self._drop(i, writer.run_id)
                raise
        self._drop(len(operations), writer.run_id)

    def _drop(self, done: int, run_id: str | None) -> None:
        """Take the first `done` operations out; what was appended meanwhile stays."""
        with self._lock:
            _, _, operations = read_spool(self.path)
            if operations[done:]:
                self._rewrite(operations[done:], run_id)
            else:
                self.path.unlink()

    def _rewrite(self, operations: Sequence[Operation], run_id: str | None) -> None:
        header = {"key": asdict(self._key), "run_id": run_id}
        lines = [json.dumps(item, ensure_ascii=False) for item in (header, *operations)]
        write_atomically(self.path, "".join(f"{line}\n" for line in lines))

    @contextmanager
    def held(self, *, seconds: float) -> Iterator[bool]:
        """Hold the spool; False when another process still has it after `seconds`. Freed when a holder dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + seconds
        with open(self.path.with_suffix(".lock"), "w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    mine = True
                except BlockingIOError:
                    mine = False
                if mine or time.monotonic() >= give_up:
                    break
                time.sleep(0.1)
            yield mine


def read_spool(path: Path) -> tuple[RunKey, str | None, list[Operation]]:
    """Key, run id and operations of a spool file; a last line cut short by a kill is dropped."""
    items = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # not at U+2028, which JSON allows within a text
        try:
            items.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return RunKey(**items[0]["key"]), items[0]["run_id"], items[1:]


def replay_spools(home: Home, notify: Callable[[str], None] = lambda message: None) -> int:
    """Deliver what earlier runs could not; cheap when nothing waits. Stores that are still down are left alone.

    Returns:
        Number of runs whose spool was delivered.
    """
    delivered, down = 0, set[str]()
    for path in sorted(home.runs.glob(f"*/{FOLDER}/*.jsonl")):
        try:
            key, run_id, _ = read_spool(path)
        except (OSError, LookupError, TypeError):
            notify(f"{path} is not readable as spooled tracking records; left as it is")
            continue
        if key.uri in down:
            continue
        spool = Spool(path.parent.parent, key)
        try:
            ensure_store(key.uri)
            with spool.held(seconds=0) as mine:
                if mine:
                    spool.replay(
                        RunWriter(key, run_id), lambda op, error: notify(f"not recorded ({op['op']}): {error}")
                    )
                    delivered += 1
        except TrackingError as error:
            down.add(key.uri)
            notify(f"tracking records are still waiting: {error.message}")
        except Exception as error:  # a store that answers and then fails: the spool is kept
            down.add(key.uri)
            notify(f"tracking records are still waiting: {error}")
    if delivered:
        notify(f"delivered the tracking records of {delivered} earlier run{'s' * (delivered > 1)}")
    return delivered
