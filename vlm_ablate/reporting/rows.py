"""The rows of a report: an arm with all that may be shown of it, and a claim with its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_ablate.reporting.statistics import Estimate, estimate
from vlm_ablate.tracking import schema

NOT_RUN = "not run"
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class ArmRow:
    """One arm. Scores are on 0..100; "mean" is the unweighted mean of all columns, per seed, then over seeds."""

    arm: str
    label: str
    cell: Mapping[str, Any] | None
    """The paper's full row, when the arm stands for one."""
    paper_score: float | None
    seeds: Mapping[int, str]
    """Seed -> status of its run."""
    scores: Mapping[str, BySeed]
    """Column (and "mean") -> seed -> score."""
    blind: Mapping[str, BySeed]
    """The same with every image withheld."""
    unparsed: Mapping[str, tuple[int, int]]
    """Column -> answers that could not be read, answers given; over seeds."""
    total_parameters: int | None
    trainable_parameters: int | None
    stand_ins: Mapping[str, str]
    message: str = ""
    note: str = ""
    paper_rank: int | None = None
    rank: int | None = None

    def score(self, column: str = schema.MEAN) -> Estimate | None:
        """Mean and interval over seeds."""
        return estimate(list(self.scores.get(column, {}).values()))

    def floor(self, column: str = schema.MEAN) -> Estimate | None:
        """The blind score: mean and interval over seeds."""
        return estimate(list(self.blind.get(column, {}).values()))

    @property
    def status(self) -> str:
        """finished when any seed has a score, else what most tells why there is none."""
        found = set(self.seeds.values())
        order = (schema.FINISHED, schema.DIVERGED, schema.RUNNING, schema.FAILED, schema.SKIPPED)
        return next((s for s in order if s in found), NOT_RUN)


@dataclass(frozen=True)
class ClaimRow:
    """A claim of the paper and what the runs say."""

    text: str
    better: str
    worse: str
    metric: str
    relation: str
    paper_gain: float | None
    difference: Estimate | None
    p: float | None
    p_holm: float | None
    """p adjusted by Holm's method over all claims of the table that could be tested."""
    verdict: str
    reason: str = ""
