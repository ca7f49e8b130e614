"""The rows of a report: an arm with all that may be shown of it, and a claim with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_ablate.reporting.hierarchy import ItemSpread
from vlm_ablate.reporting.items import Items, spread_of
from vlm_ablate.reporting.statistics import Difference, Estimate, Verdict, estimate, paired_difference
from vlm_ablate.tracking import schema

NOT_RUN, PUBLISHED = "not run", "published"
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
    rank_range: tuple[int, int] | None = None
    """Best and worst rank that the arm may have, as far as arms can be told apart."""
    items: Items = field(default_factory=dict)
    """Column -> seed -> score of each item, on the column's scale; where the records have them."""
    origin: str = ""
    """`published` for a row of the paper that no arm stands for."""
    paper_scores: Mapping[str, float] = field(default_factory=dict)
    """Our column -> the paper's number of the arm's row, where it has one."""
    _known: dict[str, Estimate | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def score(self, column: str = schema.MEAN) -> Estimate | None:
        """Mean and interval over seeds, and over items where these are known; worked out once."""
        if column not in self._known:
            by_seed = self.scores.get(column, {})
            self._known[column] = estimate(list(by_seed.values()), self._spread(column, by_seed))
        return self._known[column]

    def minus(self, other: ArmRow, column: str = schema.MEAN) -> Difference | None:
        """self - other, paired by seed, and by item where these are known; None when they share no seed."""
        mine, theirs = self.scores.get(column, {}), other.scores.get(column, {})
        return paired_difference(mine, theirs, spread_of(self.items, other.items, column, sorted(mine.keys() & theirs)))

    def _spread(self, column: str, seeds: Iterable[int]) -> ItemSpread | None:
        return spread_of(self.items, None, column, sorted(seeds))

    def floor(self, column: str = schema.MEAN) -> Estimate | None:
        """The blind score: mean and interval over seeds."""
        return estimate(list(self.blind.get(column, {}).values()))

    @property
    def status(self) -> str:
        """finished when any seed has a score, else what most tells why there is none."""
        if self.origin:
            return self.origin
        found = set(self.seeds.values())
        order = (schema.FINISHED, schema.DIVERGED, schema.RUNNING, schema.STOPPED, schema.FAILED, schema.SKIPPED)
        return next((s for s in order if s in found), NOT_RUN)


@dataclass(frozen=True)
class Comparison:
    """Two arms of a claim, the one that the paper finds better first."""

    better: str
    worse: str
    """Labels."""
    paper_gain: float | None
    difference: Difference | None
    p: float | None
    """Of no difference; for `similar`, of the two one-sided tests, or where ours lies beyond the margin, of that."""
    visible: float | None
    """The smallest difference (for `similar`: the smallest margin) that would have been seen with a chance of 80 %."""
    p_holm: float | None = None
    """p adjusted by Holm's method over all comparisons of the table that could be tested."""
    outcome: Verdict = Verdict.not_run
    """Of this pair alone."""


@dataclass(frozen=True)
class ClaimRow:
    """A claim of the paper and what the runs say."""

    text: str
    metric: str
    relation: str
    comparisons: tuple[Comparison, ...]
    """One, or the steps of an order."""
    verdict: Verdict
    reason: str = ""
    margin: float | None = None
    """Points, for `similar`."""
    source: str = ""

    @property
    def difference(self) -> Difference | None:
        """Of a claim about two arms; of an order, of its first step that was run."""
        return next((c.difference for c in self.comparisons if c.difference), None)
