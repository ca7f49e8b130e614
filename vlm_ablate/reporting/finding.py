"""What a table found, in one sentence that is computed from its verdicts."""

from __future__ import annotations

from collections import Counter

from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.rows import Comparison
from vlm_ablate.reporting.statistics import Verdict

_SAID = {
    Verdict.agrees: "{} with {}",
    Verdict.contradicts: "{} {}",
    Verdict.not_separable: "{} not separable",
    Verdict.says_nothing: "{} not tested by these runs",
    Verdict.not_run: "{} not run",
}


def finding(report: Report) -> str:
    """One sentence: how many claims hold, and the largest difference that was settled; without claims, the best arm."""
    if not any(row.score() for row in report.rows):
        return "No arm has a score yet."
    return _of_claims(report) if report.claims else _of_scores(report)


def _of_claims(report: Report) -> str:
    counts = Counter(claim.verdict for claim in report.claims)
    what = "the paper" if all(claim.source for claim in report.claims) else "what was expected"
    parts = [_counted(counts[verdict], verdict, what) for verdict in Verdict if counts[verdict]]
    number = len(report.claims)
    text = (
        f"Of {number} claims, {_listed(parts)}"
        if number > 1
        else f"The one claim {_one(report.claims[0].verdict, what)}"
    )
    settled = [c for claim in report.claims if claim.relation != "similar" for c in claim.comparisons
               if c.difference and c.outcome in (Verdict.agrees, Verdict.contradicts)]  # fmt: skip
    if not settled:
        return f"{text}; no difference was settled."
    largest = max(settled, key=lambda c: abs(c.difference.mean) if c.difference else 0.0)
    return f"{text}; the largest difference that was settled is {_told(largest)}."


def _counted(count: int, verdict: Verdict, what: str) -> str:
    many = count > 1
    verb = {Verdict.agrees: "agree" if many else "agrees", Verdict.contradicts: "contradict" if many else "contradicts"}
    told = _SAID[verdict].format(verb.get(verdict, "are" if many else "is"), what)
    return f"{count} {told}"


def _one(verdict: Verdict, what: str) -> str:
    return _counted(1, verdict, what).removeprefix("1 ")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _told(c: Comparison) -> str:
    assert c.difference is not None
    first, second, by, paper = c.better, c.worse, c.difference.mean, c.paper_gain
    if by < 0:
        first, second, by, paper = second, first, -by, None if paper is None else -paper
    theirs = "" if paper is None else f" (in the paper {paper:+.1f})".replace("-", "−")
    return f"“{first}” over “{second}” by {by:.1f} points{theirs}"


def _of_scores(report: Report) -> str:
    """The best arm, and whether others may stand as high."""
    scored = sorted(((found.mean, row) for row in report.rows if (found := row.score())), key=lambda pair: -pair[0])
    mean, best = scored[0]
    text = f"“{best.label}” scores highest, {mean:.1f}"
    if len(scored) == 1:
        return f"Only “{best.label}” has a score: {mean:.1f}."
    above, others = (best.rank_range[0] - 1, best.rank_range[1] - best.rank_range[0]) if best.rank_range else (0, 0)
    if others:
        text += f", and the runs do not tell it from {others} other{'s' * (others > 1)}"
    else:
        text += f"; the next, “{scored[1][1].label}”, {scored[1][0]:.1f}"
    # Over unlike seeds the highest mean may be that of the easier ones.
    better = f"; with common seeds {above} other{'s are' if above > 1 else ' is'} better" if above else ""
    return f"{text}{better}."
