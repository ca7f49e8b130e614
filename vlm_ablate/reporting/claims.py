"""Claims of the paper, judged from paired differences, with Holm's correction over all comparisons of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from vlm_ablate.config.experiment import Claim
from vlm_ablate.reporting.health import Health
from vlm_ablate.reporting.rows import NOT_RUN, ArmRow, ClaimRow, Comparison
from vlm_ablate.reporting.statistics import (
    CONFIDENCE,
    Difference,
    Verdict,
    beyond_p,
    equivalence_p,
    holm,
    visible,
    visible_margin,
)
from vlm_ablate.tracking import schema

SIMILAR_MARGIN = 1.0
"""Points within which two arms count as similar; the Idefics2 paper treats differences of one point as noise."""


def judge_claims(
    claims: Iterable[Claim],
    rows: Sequence[ArmRow],
    health: Mapping[str, Health] | None = None,
    scale: str = "",
) -> tuple[ClaimRow, ...]:
    """One row for each claim. A comparison is settled when its p-value is below 0.05 after Holm's correction.

    Args:
        health: column (and "mean") -> whether its scores can tell arms apart; None: not looked at.
        scale: at which it was run; a claim may say that its stand-ins cannot tell.
    """
    by_arm = {row.arm: row for row in rows}
    written = list(claims)
    found = [[_compare(claim, by_arm[a], by_arm[b], scale) for a, b in pairwise(claim.arms)] for claim in written]
    corrected = _corrected(found)
    judged = []
    for claim, comparisons in zip(written, corrected, strict=True):
        comparisons = [replace(c, outcome=_outcome(claim, c)) for c in comparisons]
        arms = [by_arm[arm] for arm in claim.arms]
        looked = (health or {}).get(claim.metric)
        silent = [claim.untested.get(scale, "") or (looked.silence(told) if looked else "")
                  for told in (claim.arms, *pairwise(claim.arms))]  # fmt: skip
        judged.append(_judge(claim, comparisons, arms, silent[0], silent[1:]))
    return tuple(judged)


def _compare(claim: Claim, better: ArmRow, worse: ArmRow, scale: str) -> Comparison:
    difference = better.minus(worse, claim.metric)
    similar = claim.relation == "similar"
    return Comparison(
        better=better.label,
        worse=worse.label,
        paper_gain=claim.paper_gain if claim.paper_gain is not None else _paper_gain(claim.metric, better, worse),
        difference=difference,
        p=None if scale in claim.untested else _p(claim, difference),
        visible=None if difference is None else visible_margin(difference) if similar else visible(difference),
    )


def _p(claim: Claim, difference: Difference | None) -> float | None:
    if difference is None or claim.relation != "similar":
        return difference.p if difference else None
    margin = margin_of(claim)
    return (equivalence_p if abs(difference.mean) <= margin else beyond_p)(difference, margin)


def margin_of(claim: Claim) -> float:
    """Points within which its arms count as similar."""
    return SIMILAR_MARGIN if claim.margin is None else claim.margin


def _paper_gain(metric: str, better: ArmRow, worse: ArmRow) -> float | None:
    """The difference in the paper's own table."""
    theirs = [row.paper_score if metric == schema.MEAN else row.paper_scores.get(metric) for row in (better, worse)]
    return None if theirs[0] is None or theirs[1] is None else theirs[0] - theirs[1]


def _corrected(found: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    """With p_holm over all comparisons that could be tested; one that two claims make counts once for each."""
    tested = [c.p for comparisons in found for c in comparisons if c.p is not None]
    adjusted = iter(holm(tested))
    return [[c if c.p is None else replace(c, p_holm=next(adjusted)) for c in comparisons] for comparisons in found]


def _outcome(claim: Claim, c: Comparison) -> Verdict:
    """Of one pair, after the correction."""
    if c.difference is None:
        return Verdict.not_run
    if c.p_holm is None or c.p_holm >= 1 - CONFIDENCE:
        return Verdict.not_separable
    if claim.relation == "similar":
        return Verdict.agrees if abs(c.difference.mean) <= margin_of(claim) else Verdict.contradicts
    return Verdict.agrees if c.difference.mean > 0 else Verdict.contradicts


def _judge(
    claim: Claim, comparisons: list[Comparison], rows: list[ArmRow], silent: str, steps: Sequence[str]
) -> ClaimRow:
    """The claim's row; `silent` is why it says nothing, or "", and `steps` the same of each of its comparisons."""
    verdict, reasons = _verdict(claim, comparisons, rows)
    if silent and verdict != Verdict.not_run:
        verdict, reasons = Verdict.says_nothing, [silent, *reasons]
    comparisons = [
        replace(c, outcome=Verdict.says_nothing) if why and c.outcome != Verdict.not_run else c
        for c, why in zip(comparisons, steps, strict=True)
    ]
    if any(c.difference for c in comparisons):
        reasons += _fewer_seeds(claim.metric, comparisons, rows)
        reasons += [f"{row.label}: {n} of {len(row.seeds)} diverged" for row in rows if (n := _diverged(row))]
    return ClaimRow(
        text=claim.text,
        metric=claim.metric,
        relation=claim.relation,
        comparisons=tuple(comparisons),
        verdict=verdict,
        reason="; ".join(reasons),
        margin=margin_of(claim) if claim.relation == "similar" else None,
        source=claim.source,
    )


def _fewer_seeds(metric: str, comparisons: Sequence[Comparison], rows: Sequence[ArmRow]) -> list[str]:
    """Over how many seeds a difference is, where an arm has a score with more."""
    told = []
    for c, (better, worse) in zip(comparisons, pairwise(rows), strict=True):
        have = [len(row.scores.get(metric, {})) for row in (better, worse)]
        if c.difference and c.difference.n < max(have):
            common = f"over {c.difference.n} common seed{'s' * (c.difference.n > 1)}, of {have[0]} and {have[1]}"
            told.append(f"{c.better} and {c.worse}: {common}" if len(comparisons) > 1 else common)
    return told


def _verdict(claim: Claim, comparisons: list[Comparison], rows: list[ArmRow]) -> tuple[Verdict, list[str]]:
    """A claim agrees when all its steps do, and is contradicted when one of them is; with the reasons to be told."""
    outcomes = {c.outcome for c in comparisons}
    if outcomes == {Verdict.agrees}:
        return Verdict.agrees, []
    reasons = []
    if Verdict.contradicts in outcomes:
        verdict = Verdict.contradicts
    elif Verdict.not_run in outcomes:
        verdict, why = _without_scores(claim, rows)
        reasons += [why] if why else []
    else:
        verdict = Verdict.not_separable
    if len(comparisons) > 1 and outcomes != {Verdict.not_run}:
        holding = sum(c.outcome == Verdict.agrees for c in comparisons)
        reasons.append(f"{holding} of {len(comparisons)} steps hold")
    if any(c.difference and c.difference.n == 1 for c in comparisons):
        reasons.append("1 seed gives no interval")
    if any(c.difference and c.difference.n > 1 and c.difference.half_width is None for c in comparisons):
        reasons.append("the same difference with every seed gives no interval")
    if any(c.outcome == Verdict.not_separable and (c.p or 1.0) < 1 - CONFIDENCE for c in comparisons):
        reasons.append("settled alone, not after Holm's correction")
    return verdict, reasons


def _without_scores(claim: Claim, rows: Sequence[ArmRow]) -> tuple[Verdict, str]:
    """A diverged run has no score, but an arm that diverges with every seed (two or more) while the other trains does
    decide a claim of the kind "better" about two arms."""
    if len(rows) == 2 and claim.relation == "better":
        better, worse = rows
        for loser, winner, verdict in ((worse, better, Verdict.agrees), (better, worse, Verdict.contradicts)):
            lost, won = _diverged(loser), len(winner.scores.get(claim.metric, {}))
            if lost and lost == len(loser.seeds) and won:
                seeds = f"{loser.label} diverged with {'all ' if lost > 1 else ''}{lost} seed{'s' if lost > 1 else ''}"
                return (verdict, seeds) if lost > 1 and won > 1 else (Verdict.not_separable, seeds)
    missing = [row for row in rows if not row.scores.get(claim.metric)]
    told = "; ".join(f"{row.label}: {_ended(claim, row)}" for row in missing if row.status != NOT_RUN)
    return Verdict.not_run, told if missing else "no common seed"


def _ended(claim: Claim, row: ArmRow) -> str:
    """How the runs of an arm ended that has no score of the claim."""
    if row.status != schema.FINISHED:
        return row.status
    lacking = "not with every benchmark" if claim.metric == schema.MEAN else "without this score"
    return f"{row.status}, but {lacking}"


def _diverged(row: ArmRow) -> int:
    return sum(status == schema.DIVERGED for status in row.seeds.values())
