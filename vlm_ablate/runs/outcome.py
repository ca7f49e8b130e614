"""How one run ended: what a launcher hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_ablate.events import Status
from vlm_ablate.tracking.records import RunRecord


@dataclass(frozen=True)
class RunOutcome:
    """How one run ended: what a launcher hands back."""

    run: str
    name: str
    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    """Column -> score (0..100), images shown."""
    blind: Mapping[str, float] = field(default_factory=dict)
    """Column -> score (0..100), images withheld."""
    message: str = ""
    tracking_run: str | None = None
    """Id of the run in the tracking store."""
    seconds: float = 0.0
    reused: bool = False

    @classmethod
    def from_record(cls, record: RunRecord) -> RunOutcome:
        """The outcome that the record of a finished or diverged run tells."""
        scores = {
            blind: {s["column"]: float(s["score"]) for s in record.scores if bool(s["blind"]) == blind}
            for blind in (False, True)
        }
        return cls(
            run=record.hash,
            name=record.name,
            status=record.status,  # type: ignore[arg-type]
            scores=scores[False],
            blind=scores[True],
            message=record.message,
            tracking_run=record.run_id,
            seconds=((record.end_time or record.start_time) - record.start_time) / 1000,
            reused=True,
        )

    @property
    def mean(self) -> float | None:
        """Unweighted mean of the scores, None without any."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the outcome file."""
        return {
            "run": self.run,
            "name": self.name,
            "status": self.status,
            "scores": dict(self.scores),
            "blind": dict(self.blind),
            "message": self.message,
            "tracking_run": self.tracking_run,
            "seconds": self.seconds,
        }
