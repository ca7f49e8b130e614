"""The page over many tables: every claim with its verdict, each table's order, and how all orders agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vlm_ablate.papers import regenerated
from vlm_ablate.reporting.agreement import Agreement, agreement
from vlm_ablate.reporting.claims import SIMILAR_MARGIN
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.grid import DASH, MARK, Cell, Column, Grid, Layout
from vlm_ablate.reporting.layout import claim_columns, claim_rows
from vlm_ablate.reporting.statistics import Verdict

VERDICTS = tuple(Verdict)


def overview(
    reports: Sequence[Report],
    scale: str,
    remarks: Iterable[tuple[str, str]] = (),
    links: Mapping[str, str] | None = None,
) -> Layout:
    """The page of these reports, all at one scale, for `renderers.markdown` and `renderers.html`.

    Args:
        remarks: (subject, text) notes on all of them.
        links: experiment -> address of its page.
    """
    stand_ins = any(report.stand_ins for report in reports)
    verdicts = Counter(claim.verdict for report in reports for claim in report.claims)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS if verdicts[verdict])
    subtitle = f"{sum(verdicts.values())} claims: {told or 'none'}"
    return Layout(
        title=f"{len(reports)} experiment{'s' * (len(reports) != 1)} at scale {scale}",
        subtitle=f"{subtitle} · with stand-ins{MARK}" if stand_ins else subtitle,
        question="",
        table=_tables(reports, links or {}),
        order=describe_agreement(agreement([report.order for report in _once(reports) if report.order])),
        claims=_claims(reports, stand_ins, links or {}),
        notes=(*_notes(reports), *remarks),
    )


def _once(reports: Sequence[Report]) -> list[Report]:
    """Without those whose arms all stand for rows that another one has: the same pairs would count twice."""
    rows = [{id(row.cell) for row in report.rows if row.cell is not None and row.score()} for report in reports]
    return [
        report
        for i, report in enumerate(reports)
        if not any(rows[i] < other or (rows[i] == other and j < i) for j, other in enumerate(rows))
    ]


def _tables(reports: Sequence[Report], links: Mapping[str, str]) -> Grid:
    group = "Claims"
    columns = (
        Column("table", "Table", numeric=False),
        Column("title", "What it varies", numeric=False),
        Column("arms", "Arms run"),
        Column("seeds", "Seeds"),
        Column("order", "Pairs in the paper's order"),
        *(Column(str(verdict), str(verdict).capitalize(), group) for verdict in VERDICTS),
    )
    return Grid(columns, tuple(_table_row(report, links.get(report.experiment, "")) for report in reports))


def _table_row(report: Report, href: str) -> tuple[Cell, ...]:
    counts = Counter(claim.verdict for claim in report.claims)
    scored = [found.n for row in report.rows if (found := row.score())]
    seeds = DASH if not scored else str(max(scored)) if min(scored) == max(scored) else f"{min(scored)}–{max(scored)}"
    order = DASH if report.order is None else f"{report.order.concordant} of {report.order.told}"
    return (
        Cell(_name(report), href=href),
        Cell(report.title),
        Cell(f"{len(scored)} of {len(report.rows)}"),
        Cell(seeds),
        Cell(order),
        *(Cell(str(counts[verdict] or ""), muted=verdict == Verdict.not_run) for verdict in VERDICTS),
    )


def _name(report: Report) -> str:
    """`Idefics2, Table 3`, or the experiment's own name where it regenerates no table."""
    paper = report.paper
    return f"{paper.paper.capitalize()}, {regenerated(paper, report.experiment)}" if paper else report.experiment


def _claims(reports: Sequence[Report], stand_ins: bool, links: Mapping[str, str]) -> Grid | None:
    of_paper = all(claim.source for report in reports for claim in report.claims)
    columns = (Column("table", "Table", numeric=False), *claim_columns(stand_ins, of_paper=of_paper))
    rows = [
        (
            Cell(_name(report), muted=True, href=links.get(report.experiment, "")) if i == j == 0 else Cell(),
            *row,
        )
        for report in reports
        for i, claim in enumerate(report.claims)
        for j, row in enumerate(claim_rows(claim, report))
    ]
    return Grid(columns, tuple(rows)) if rows else None


def describe_agreement(found: Agreement | None) -> str:
    """In one sentence; "" where there is nothing to compare."""
    if found is None:
        return ""
    text = f"Over {found.tables} table{'s' * (found.tables != 1)}, {found.concordant} of {found.pairs} pairs of arms "
    text += f"stand in the paper's order: rank agreement {found.tau:+.2f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{text} (1: the same order, 0: chance)."


def _notes(reports: Sequence[Report]) -> Iterable[tuple[str, str]]:
    yield (
        "Claims",
        (
            "differences in points with 95 % intervals, paired by seed; a verdict holds after Holm's correction within "
            "its table. Visible from: the smallest true difference that would have been seen with a chance of 80 %; of "
            f"arms that are claimed to be alike, the smallest margin that would have been, where {SIMILAR_MARGIN:g} "
            "point is asked unless the claim says another."
        ),
    )
    yield (
        "Rank agreement",
        (
            "(pairs in the paper's order − pairs against it) over all pairs that the papers tell apart by their "
            "numbers and do not call alike, but for those that this scale cannot test or of which the scores say "
            "nothing; 95 % bootstrap interval over tables."
        ),
    )
    silent = [
        (_name(report), claim.reason)
        for report in reports
        for claim in report.claims
        if claim.verdict == Verdict.says_nothing
    ]
    if silent:
        yield "Says nothing", " ".join(f"{name}: {why}." for name, why in silent)
    turned = [(_name(report), text) for report in reports for subject, text in report.notes if subject == "Budget"]
    if turned:
        yield "Budget", " ".join(f"{name}: {text}" for name, text in turned)
    lost = [
        f"{_name(report)}: {row.label} ({row.status})" for report in reports for row in report.rows if not row.score()
    ]
    if lost:
        yield "Without a score", "; ".join(lost) + "."
