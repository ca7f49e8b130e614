"""How one run ended: what a launcher hands back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from vlm_ablate.events import Status
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseHeld
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results
from vlm_ablate.tracking import schema


@dataclass(frozen=True)
class RunOutcome:
    """How one run ended. A mapping column -> score is on 0..100 (CIDEr may exceed it)."""

    run: str
    """Id of the run."""
    name: str
    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    """Images shown."""
    blind: Mapping[str, float] = field(default_factory=dict)
    """Images withheld."""
    message: str = ""
    seconds: float = 0.0
    """Of computing that this execution did."""
    before: float = 0.0
    """Seconds that processes before it had worked on what it trained, and that it did not have to repeat."""
    reused: bool = False
    """True when nothing was left to compute."""
    trained: tuple[str, ...] = ()
    """Stages that this execution trained; the others were there."""
    died: bool = False
    """Its process ended before the run did: killed, or out of memory."""

    @property
    def mean(self) -> float | None:
        """Unweighted mean of the scores, None without any."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else None


def outcome_of(
    results: Results,
    *,
    seconds: float = 0.0,
    before: float = 0.0,
    reused: bool = False,
    trained: tuple[str, ...] = (),
) -> RunOutcome:
    """The outcome that the results on disk tell."""
    records = [r for r in results.score_records() if not r.get("described")] if results.status == "finished" else []
    scores = {
        blind: {str(r["column"]): float(r["score"]) for r in records if bool(r["blind"]) is blind}
        for blind in (False, True)
    }
    return RunOutcome(
        run=results.spec.id,
        name=results.spec.run_name,
        status=cast(Status, results.status),
        scores=scores[False],
        blind=scores[True],
        message=results.message,
        seconds=seconds,
        before=before,
        reused=reused,
        trained=trained,
    )


def failed(spec: RunSpec, message: str, *, died: bool = False) -> RunOutcome:
    """The outcome of a run that could not say itself how it ended."""
    return RunOutcome(run=spec.id, name=spec.run_name, status="failed", message=message, died=died)


def note_attempt(spec: RunSpec, home: Home, status: str, message: str = "", **more: object) -> None:
    """Write down how an attempt at a run stands, beside what is computed; for the holder of the run's lease.

    Raises:
        StorageError: it cannot be written.
        LeaseLost: the lease of the run is lost.
    """
    folder = run_folder(home, spec.id)
    folder.prepare()
    before = folder.read() or {}
    now = time.time_ns() // 1_000_000
    folder.write(
        {
            "id": spec.id,
            "stages": [stage.key for stage in spec.stage_keys],
            "status": status,
            "message": message,
            "started_ms": before.get("started_ms", now),
            "ended_ms": None if status == schema.RUNNING else now,
            **more,
            "spec": spec.to_dict(),
        }
    )


def note_from_outside(spec: RunSpec, home: Home, status: str, message: str = "") -> None:
    """`note_attempt` for who does not compute the run; a process that computes it now says itself how it stands.

    Raises:
        StorageError: it cannot be written.
    """
    with suppress(LeaseHeld), Lease.acquire(run_folder(home, spec.id).root, wait=False):
        note_attempt(spec, home, status, message)
