"""What goes on in a home, whoever started it: read from its files alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from vlm_ablate.home import Home
from vlm_ablate.lease import holder
from vlm_ablate.runs.folder import RunFolder
from vlm_ablate.runs.live import IDLE_SECONDS, LiveRun, read_live
from vlm_ablate.runs.names import asked_for
from vlm_ablate.storage import file_time
from vlm_ablate.tracking import schema

SILENT_SECONDS = 6 * IDLE_SECONDS
"""Without a word for this long a process is in doubt: its machine stands still, or the way to the home does."""
RECENT_HOURS = 24.0


@dataclass(frozen=True)
class Going:
    """A run that some process has begun."""

    live: LiveRun
    lost: bool
    """Whether the process is gone, or another may take the run: it goes on when it is asked for again."""
    since_sign: float
    """Seconds since the last sign of life, by the clock of the home's file system: those of machines may differ."""

    @property
    def age(self) -> float:
        """Seconds since the process began with it."""
        return self.since_sign + max(0.0, (self.live.updated_ms - self.live.started_ms) / 1000)

    @property
    def silent(self) -> bool:
        """Whether the last sign of life is long ago, though nobody else may take the run yet."""
        return not self.lost and self.since_sign > SILENT_SECONDS


@dataclass(frozen=True)
class Unfinished:
    """A run whose last attempt failed or was stopped."""

    id: str
    name: str
    experiment: str
    status: str
    message: str
    ended_ms: int


def going(home: Home) -> list[Going]:
    """Runs that are computed now, and those whose process ended without a word, in the order of their start."""
    found: list[Going] = []
    now = file_time(home.root)
    for folder in _folders(home):
        try:
            written = folder.live.stat().st_mtime
        except OSError:
            continue  # it has just ended
        if (live := read_live(folder)) is not None:
            owner = holder(folder.root)
            ours = owner is not None and (owner.host, owner.pid) == (live.host, live.pid)
            found.append(Going(live, not ours, max(0.0, now - written)))
    return sorted(found, key=lambda each: (each.live.started_ms, each.live.run))


def unfinished(home: Home, hours: float = RECENT_HOURS) -> list[Unfinished]:
    """Runs that failed or were stopped within the last `hours` and were not begun again, the latest first."""
    since = (time.time() - hours * 3600) * 1000
    found = []
    for folder, body in asked_for(home):
        ended = body.get("ended_ms")
        if body.get("status") in (schema.FAILED, schema.STOPPED) and isinstance(ended, int) and ended >= since:
            spec = body["spec"]
            name = f"{spec['arm']} · seed {spec['seed']} · {spec['scale']}"
            message = str(body.get("message") or "")
            if not folder.live.exists():
                found.append(Unfinished(body["id"], name, spec["experiment"], body["status"], message, ended))
    return sorted(found, key=lambda each: -each.ended_ms)


def _folders(home: Home) -> Iterator[RunFolder]:
    for root in home.runs.iterdir() if home.runs.is_dir() else ():
        folder = RunFolder(root)
        if folder.live.exists():
            yield folder
