"""A report laid out as grids of formatted cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_ablate.reporting.agreement import Order
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.grid import DASH, MARK, Cell, Column, Grid, Layout
from vlm_ablate.reporting.judgement import judgement_notes
from vlm_ablate.reporting.paper import PARAMETER_COLUMNS, heading, is_result, source
from vlm_ablate.reporting.rows import PUBLISHED, ArmRow, ClaimRow, Comparison
from vlm_ablate.reporting.statistics import Difference, Estimate
from vlm_ablate.tracking import schema

STEP = "· "
"""Before the steps of an order."""


def lay_out(report: Report) -> Layout:
    """The page that all renderers draw."""
    subtitle = f"{source(report.paper)}: {report.paper.caption}" if report.paper else report.experiment
    if report.scale:
        subtitle += f" · run at scale {report.scale}{f' with stand-ins{MARK}' if report.stand_ins else ''}"
    return Layout(
        title=report.title,
        subtitle=subtitle,
        question=report.question,
        table=_table(report),
        order=describe_order(report),
        claims=_claims(report) if report.claims else None,
        notes=_notes(report),
    )


# --- the table -------------------------------------------------------------------------------------------------------
Draw = Callable[[ArmRow], Cell]


def _table(report: Report) -> Grid:
    drawn = [*_description(report), *_paper(report), *_ours(report)]
    columns = tuple(column for column, _ in drawn)
    rows = tuple(tuple(draw(row) for _, draw in drawn) for row in report.shown)
    return Grid(columns, rows, _foot(report, columns))


def _description(report: Report) -> list[tuple[Column, Draw]]:
    """What tells the arms apart: the paper's descriptive columns, or the label where the paper has no row."""
    paper = report.paper
    described = [c for c in report.paper_columns if paper and not is_result(paper, c) and c not in PARAMETER_COLUMNS]
    if not described or not any(row.cell for row in report.shown):
        return [(Column("arm", "Arm", numeric=False), lambda row: Cell(row.label))]

    def draw(column: str, first: bool) -> Draw:
        def cell(row: ArmRow) -> Cell:
            if row.cell is None:
                return Cell(row.label) if first else Cell(DASH, muted=True)
            return _value_cell(row.cell.get(column))

        return cell

    numeric = {c for c in described if all(isinstance(r.cell.get(c), int) for r in report.shown if r.cell)}
    return [(Column(c, heading(c), numeric=c in numeric), draw(c, c == described[0])) for c in described]


def _paper(report: Report) -> list[tuple[Column, Draw]]:
    if report.paper is None:
        return []
    group = f"Paper ({report.paper.number})"
    shown = [c for c in report.paper_columns if c in PARAMETER_COLUMNS or is_result(report.paper, c)]
    drawn = [(Column(f"paper_{c}", heading(c), group), _paper_column(c)) for c in shown]
    if scores := [row.paper_score for row in report.shown if row.paper_score is not None]:
        best = max(scores)
        drawn.append((Column("paper_score", "Score", group), lambda row: _score_cell(row.paper_score, best)))
        drawn.append((Column("paper_rank", "#", group), lambda row: _rank_cell(row.paper_rank)))
    return drawn


def _paper_column(key: str) -> Draw:
    return lambda row: _value_cell(row.cell.get(key) if row.cell else None)


def _parameter_column(key: str) -> Draw:
    return lambda row: Cell(parameters(getattr(row, key)))


def _ours(report: Report) -> list[tuple[Column, Draw]]:
    group = f"This run ({report.scale or 'nothing run'})" + (MARK if report.stand_ins else "")
    drawn: list[tuple[Column, Draw]] = []
    for key, name in zip(("total_parameters", "trainable_parameters"), PARAMETER_COLUMNS, strict=True):
        if any(getattr(row, key) is not None for row in report.rows):
            drawn.append((Column(key, heading(name), group), _parameter_column(key)))
    drawn.append((Column("mean", "Score", group), _estimate_column(report, schema.MEAN)))
    if any(row.rank for row in report.rows):
        drawn.append((Column("rank", "#", group), lambda row: _range_cell(row.rank, row.rank_range)))
    if len(report.columns) > 1:
        drawn += [
            (Column(f"score_{c}", report.headings[c], group), _estimate_column(report, c)) for c in report.columns
        ]
    if any(row.floor() for row in report.rows):
        drawn.append((Column("blind", "Blind", group), lambda row: _estimate_cell(row.floor(), muted=True)))
    if len({len(row.scores[schema.MEAN]) for row in report.rows if row.scores[schema.MEAN]}) > 1:
        drawn.append((Column("seeds", "Seeds", group), _seeds_cell))
    return drawn


def _estimate_column(report: Report, column: str) -> Draw:
    best = report.best(column)

    def draw(row: ArmRow) -> Cell:
        found = row.score(column)
        if found is None:
            told = column == schema.MEAN and row.status not in (schema.FINISHED, PUBLISHED)
            return Cell(row.status if told else DASH, muted=True)
        mark = MARK if column == schema.MEAN and row.stand_ins else ""
        return _estimate_cell(found, bold=row.arm in best, mark=mark)

    return draw


def _foot(report: Report, columns: tuple[Column, ...]) -> tuple[tuple[Cell, ...], ...]:
    """What is scored without images and with words in their place, one row each, where they were recorded."""
    rows = []
    named = {"Blind floor": report.floor, "Told in words": report.ceiling}
    for name, values in named.items():
        if not values:
            continue
        by_key = {"mean": values.get(schema.MEAN)} | {f"score_{c}": values.get(c) for c in report.columns}
        cells = [Cell(f"{by_key[c.key]:.1f}") if by_key.get(c.key) is not None else Cell() for c in columns[1:]]
        rows.append((Cell(name), *cells))
    return tuple(rows)


# --- claims, order, notes --------------------------------------------------------------------------------------------
def claim_columns(stand_ins: bool, *, of_paper: bool = True) -> tuple[Column, ...]:
    """Of a table of claims; of the paper's, or with others among them, which have no source."""
    return (
        Column("claim", "Claim of the paper" if of_paper else "Claim", numeric=False),
        Column("paper", "Paper"),
        Column("ours", "This run [95 % interval]" + (MARK if stand_ins else "")),
        Column("visible", "Visible from"),
        Column("verdict", "Verdict", numeric=False),
    )


def _claims(report: Report) -> Grid:
    rows = tuple(row for claim in report.claims for row in claim_rows(claim, report))
    return Grid(claim_columns(report.stand_ins, of_paper=all(claim.source for claim in report.claims)), rows)


def claim_rows(claim: ClaimRow, report: Report) -> list[tuple[Cell, ...]]:
    """One row, or for an order its verdict and below it a row for each step."""
    column = report.headings.get(claim.metric, claim.metric)
    text = claim.text if claim.metric == schema.MEAN else f"{claim.text} ({column})"
    verdict = f"{claim.verdict} ({claim.reason})" if claim.reason else str(claim.verdict)
    settled = claim.verdict in ("agrees", "contradicts")
    last = Cell(verdict, bold=settled, muted=not settled)
    if len(claim.comparisons) == 1:
        return [(Cell(text), *_comparison_cells(claim.comparisons[0]), last)]
    steps = [
        (Cell(f"{STEP}{c.better} − {c.worse}", muted=True), *_comparison_cells(c), Cell(str(c.outcome), muted=True))
        for c in claim.comparisons
    ]
    return [(Cell(text), Cell(), Cell(), Cell(), last), *steps]


def _comparison_cells(c: Comparison) -> tuple[Cell, Cell, Cell]:
    paper = DASH if c.paper_gain is None else f"{c.paper_gain:+.1f}"
    seen = DASH if c.visible is None else f"{c.visible:.1f}"
    return Cell(_minus(paper)), Cell(_minus(_interval(c.difference))), Cell(seen)


def _interval(found: Difference | None) -> str:
    if found is None:
        return DASH
    ends = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}{ends}"


def describe_order(report: Report) -> str:
    """The order of arms in both, in one sentence; "" where there is nothing to compare."""
    order: Order | None = report.order
    if order is None:
        return ""
    if order.same:
        arms = "" if order.left_out or order.tied else f" of {order.arms} arms"
        pairs = "" if order.told == 1 else f", in all {order.told} pairs{arms}"
        return f"Order of arms: the same as the paper's{pairs}.{_not_counted(order)}"
    if order.told == 1 and order.tau is not None:
        return f"Order of arms: not the paper's.{_not_counted(order)}"
    tau = "" if order.tau is None else f" (Kendall τ = {order.tau:.2f})".replace("-", "−")
    counted = f"{order.concordant} of {order.told} pairs stand in the paper's order{tau}"
    return f"Order of arms: {counted}.{_not_counted(order)}"


def _not_counted(order: Order) -> str:
    reasons = {"these runs cannot test": order.left_out, "the paper does not tell apart": order.tied}
    parts = [f"{n} pair{'s' * (n != 1)} that {why}" for why, n in reasons.items() if n]
    return f" Not counted: {' and '.join(parts)}." if parts else ""


def _notes(report: Report) -> tuple[tuple[str, str], ...]:
    notes = [
        (f"{MARK} {subject}" if subject == "Stand-in" else subject, text.replace("->", "→"))
        for subject, text in report.notes
    ]
    if any(row.score() for row in report.rows):
        notes.insert(sum(subject == "Stand-in" for subject, _ in report.notes), ("Score", _explained(report)))
    notes += judgement_notes(report)
    return tuple(notes)


def _explained(report: Report) -> str:
    """What the score columns hold."""
    several = len(report.columns) > 1
    named = ", ".join(report.headings[c] for c in report.columns)
    text = f"unweighted mean of {named}" if several else named
    text += ", in percent points (CIDEr may exceed 100). Bold: highest mean."
    if report.floor:
        text += " Blind: every image withheld; the floor is the highest blind score of any arm."
    if report.ceiling:
        highest = "of each benchmark the highest of any arm, and their mean" if several else "highest of any arm"
        text += f" Told in words: text in place of the images says what they show, {highest}; a ceiling as long as no"
        text += " arm passes it."
    return text


# --- formats ---------------------------------------------------------------------------------------------------------
def _estimate_cell(found: Estimate | None, *, bold: bool = False, muted: bool = False, mark: str = "") -> Cell:
    if found is None:
        return Cell(DASH, muted=True)
    spread = "" if found.half_width is None else f"{found.half_width:.1f}"
    return Cell(_minus(f"{found.mean:.1f}"), spread, bold, muted, mark)


def _score_cell(value: float | None, best: float) -> Cell:
    return Cell(DASH, muted=True) if value is None else Cell(f"{value:.1f}", bold=value == best)


def _rank_cell(rank: int | None) -> Cell:
    return Cell("" if rank is None else str(rank), muted=True)


def _range_cell(rank: int | None, possible: tuple[int, int] | None) -> Cell:
    """A rank, or the ranks that an arm may have: those that cannot be told apart are a group, not an order."""
    if rank is None or possible is None or possible[0] == possible[1]:
        return _rank_cell(rank if possible is None else possible[0])
    return Cell(f"{possible[0]}–{possible[1]}", muted=True)


def _seeds_cell(row: ArmRow) -> Cell:
    return Cell(DASH, muted=True) if row.status == PUBLISHED else Cell(str(len(row.scores[schema.MEAN])))


def _value_cell(value: Any) -> Cell:
    return Cell(DASH, muted=True) if value is None else Cell(str(value))


def _minus(text: str) -> str:
    """Typographic minus signs."""
    return text.replace("-", "−")


def parameters(count: int | None) -> str:
    """A parameter count as the papers write it: 8.3B, 740M, 5.2M, 12k."""
    if count is None:
        return DASH
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(count)
