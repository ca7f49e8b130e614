"""What a page of the report is made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlm_ablate.reporting.frame import Report, sample_of
from vlm_ablate.tracking.answers import Answers
from vlm_ablate.tracking.records import History, RunRecord


@dataclass(frozen=True)
class Entry:
    """One experiment at one scale: its report with what it was computed from, or why there is none."""

    experiment: str
    scale: str
    title: str = ""
    report: Report | None = None
    records: Sequence[RunRecord] = ()
    histories: Mapping[str, History] = field(default_factory=dict)
    answers: Mapping[str, Callable[[], Iterable[Answers]]] = field(default_factory=dict)
    """Run id -> reads what the run answered, where it is at hand."""
    examples: Mapping[str, Path] = field(default_factory=dict)
    """Run id -> its panel of pictures with truth and answers, where it is at hand."""
    commands: Sequence[str] = ()
    """What brings all that the page shows."""
    problem: str = ""
    """Why there is no report."""

    @property
    def stem(self) -> str:
        """Of the names of its files: `a/b` at a scale is `a-b-scale`, and `a-b` is `a--b-scale`."""
        named = (part.replace("-", "--") for part in (self.experiment, self.scale))
        return re.sub(r"[^\w.-]+", "-", "-".join(named))

    @property
    def shown(self) -> list[RunRecord]:
        """The records that the report was computed from, by arm and seed."""
        ids = self.report.run_ids if self.report else frozenset()
        return sorted((r for r in self.records if r.run_id in ids), key=lambda r: (r.arm, r.seed))

    @property
    def sample(self) -> RunRecord | None:
        """The run whose answers stand for all."""
        return sample_of(self.report, self.shown, self.examples) if self.report else None
