"""Claims of the paper, judged from paired differences over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vlm_ablate.config.experiment import Claim
from vlm_ablate.reporting.rows import NOT_RUN, ArmRow, ClaimRow
from vlm_ablate.reporting.statistics import Difference, Verdict, holm, judge, paired_difference
from vlm_ablate.tracking import schema

SIMILAR_MARGIN = 1.0
"""Points within which two arms count as similar; the Idefics2 paper treats differences of one point as noise."""


def judge_claims(claims: Iterable[Claim], rows: Sequence[ArmRow]) -> tuple[ClaimRow, ...]:
    """One row for each claim. The verdicts are not corrected for multiplicity; `p_holm` is, over all tested claims."""
    by_arm = {row.arm: row for row in rows}
    judged = [_judge(claim, by_arm) for claim in claims]
    tested = [i for i, row in enumerate(judged) if row.p is not None and row.relation == "better"]
    for i, adjusted in zip(tested, holm([judged[i].p or 0.0 for i in tested]), strict=True):
        judged[i] = replace(judged[i], p_holm=adjusted)
    return tuple(judged)


def _judge(claim: Claim, rows: Mapping[str, ArmRow]) -> ClaimRow:
    better, worse = rows[claim.better], rows[claim.worse]
    difference = paired_difference(better.scores.get(claim.metric, {}), worse.scores.get(claim.metric, {}))
    verdict, reason = _verdict(claim, better, worse, difference)
    return ClaimRow(
        text=claim.text,
        better=better.label,
        worse=worse.label,
        metric=claim.metric,
        relation=claim.relation,
        paper_gain=claim.paper_gain if claim.paper_gain is not None else _paper_gain(claim, better, worse),
        difference=difference,
        p=difference.p if difference else None,
        p_holm=None,
        verdict=verdict,
        reason=reason,
    )


def _verdict(claim: Claim, better: ArmRow, worse: ArmRow, difference: Difference | None) -> tuple[Verdict, str]:
    if difference is None:
        return _without_scores(claim, better, worse)
    verdict = judge(difference, claim.relation, SIMILAR_MARGIN)
    diverged = [f"{row.label}: {n} of {len(row.seeds)} diverged" for row in (better, worse) if (n := _diverged(row))]
    reason = "1 seed gives no interval" if difference.n == 1 else ""
    return verdict, "; ".join(filter(None, [reason, *diverged]))


def _without_scores(claim: Claim, better: ArmRow, worse: ArmRow) -> tuple[Verdict, str]:
    """A diverged run has no score, but an arm that diverges with every seed (two or more) while the other trains does
    decide a claim of the kind "better"."""
    for loser, winner, verdict in ((worse, better, Verdict.agrees), (better, worse, Verdict.contradicts)):
        lost, won = _diverged(loser), len(winner.scores.get(claim.metric, {}))
        if claim.relation == "better" and lost and lost == len(loser.seeds) and won:
            seeds = f"{loser.label} diverged with {'all ' if lost > 1 else ''}{lost} seed{'s' if lost > 1 else ''}"
            return (verdict, seeds) if lost > 1 and won > 1 else (Verdict.not_separable, seeds)
    missing = [row for row in (better, worse) if not row.scores.get(claim.metric)]
    told = "; ".join(f"{row.label}: {row.status}" for row in missing if row.status != NOT_RUN)
    return Verdict.not_run, told if missing else "no common seed"


def _diverged(row: ArmRow) -> int:
    return sum(status == schema.DIVERGED for status in row.seeds.values())


def _paper_gain(claim: Claim, better: ArmRow, worse: ArmRow) -> float | None:
    """The difference in the paper's own table, for claims on the mean."""
    if claim.metric != schema.MEAN or better.paper_score is None or worse.paper_score is None:
        return None
    return better.paper_score - worse.paper_score
