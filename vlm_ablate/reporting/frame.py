"""Records to the report model: one row for each arm, with everything a renderer may show. Nothing here formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from vlm_ablate.config.experiment import Claim, Experiment
from vlm_ablate.papers import PaperTable, find_row, table
from vlm_ablate.reporting.agreement import Order, compare_order, rank_ranges, ranks
from vlm_ablate.reporting.budget import budget_notes, curve_notes
from vlm_ablate.reporting.claims import judge_claims
from vlm_ablate.reporting.health import Health, look_after
from vlm_ablate.reporting.items import item_scores
from vlm_ablate.reporting.notes import footnotes
from vlm_ablate.reporting.paper import HEADINGS
from vlm_ablate.reporting.rows import PUBLISHED, ArmRow, ClaimRow
from vlm_ablate.reporting.select import Selection, scores_of, select
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, RunRecord


@dataclass(frozen=True)
class Report:
    """Everything a table, page or figure shows about one experiment at one scale."""

    experiment: str
    title: str
    question: str
    scale: str
    paper: PaperTable | None
    paper_columns: tuple[str, ...]
    """Columns of the paper to repeat, the score column not among them."""
    columns: tuple[str, ...]
    headings: Mapping[str, str]
    """Column -> what was scored there, in a reader's words; a benchmark that stands in for another has its own name."""
    rows: tuple[ArmRow, ...]
    floor: Mapping[str, float]
    """Column -> highest blind mean of any arm: what can be had without seeing."""
    ceiling: Mapping[str, float]
    order: Order | None
    """Our order of arms against the paper's, over arms that have both scores."""
    claims: tuple[ClaimRow, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    """(subject, text) footnotes."""
    planned_seeds: tuple[int, ...] = ()
    run_ids: frozenset[str] = frozenset()
    """Of the records that all this was computed from."""
    curve_columns: tuple[str, ...] = ()
    """Columns that are scored along the way."""
    published: tuple[ArmRow, ...] = ()
    """Rows of the paper that no arm stands for."""
    paired: Mapping[str, str] = field(default_factory=dict)
    """Our column -> the paper's column that it stands beside."""
    health: Mapping[str, Health] = field(default_factory=dict)
    """Column (and "mean") -> whether its scores can tell arms apart."""

    @property
    def shown(self) -> tuple[ArmRow, ...]:
        """All rows: with published ones in the paper's order, and what the paper does not have last."""
        if not self.published or self.paper is None:
            return self.rows
        order = {id(row): place for place, row in enumerate(self.paper.rows)}
        last = len(order)
        return tuple(sorted((*self.published, *self.rows), key=lambda row: order.get(id(row.cell), last)))

    @property
    def stand_ins(self) -> bool:
        """Some arm was run with a stand-in for what the paper names."""
        return any(row.stand_ins for row in self.rows)

    def best(self, column: str) -> frozenset[str]:
        """The arms with the highest mean in a column; none when fewer than two arms have a score."""
        means = {row.arm: found.mean for row in self.rows if (found := row.score(column))}
        if len(means) < 2:
            return frozenset()
        return frozenset(arm for arm, mean in means.items() if mean == max(means.values()))


def report(
    experiment: Experiment,
    records: Iterable[RunRecord],
    scale: str | None = None,
    *,
    ids: Collection[str] | None = None,
    left_out: int = 0,
    ceiling: Mapping[str, float] | None = None,
    remarks: Iterable[tuple[str, str]] = (),
    histories: Mapping[str, History] | None = None,
) -> Report:
    """The report on an experiment from its records.

    Args:
        scale: which scale's runs; may be None when there is only one.
        ids: of the runs that the experiment expands to now; records of other configurations are set aside.
        left_out: runs in another configuration that are not among the records.
        ceiling: column -> score that nothing here can pass; used where the runs recorded none.
        remarks: (subject, text) footnotes that the records cannot give.
        histories: run id -> metric histories (`figures.history_metrics`), which tell whether scores rise in training.

    Raises:
        VlmAblateError: several scales and none named; unlike scores in one column; an unknown table or cell.
    """
    selection = select(experiment, records, scale, ids)
    selection = replace(selection, left_out=selection.left_out + left_out)
    paper = table(experiment.paper.key) if experiment.paper else None
    rows = _ranked([_row(experiment, arm, selection, paper) for arm in experiment.arms])
    floor, highest = _floor(rows, selection.columns), _ceiling(selection, ceiling or {})
    by_arm = {
        arm: {
            seed: history for seed, r in runs.items()
            if r.status == schema.FINISHED and (history := (histories or {}).get(r.run_id))
        }
        for arm, runs in selection.runs.items()
    }
    health = look_after(rows, selection.columns, floor, highest, by_arm)
    along = (*budget_notes(rows, by_arm), *curve_notes(rows, by_arm))
    return Report(
        experiment=experiment.name,
        title=experiment.title,
        question=experiment.question,
        scale=selection.scale,
        paper=paper,
        paper_columns=_paper_columns(experiment, paper),
        columns=selection.columns,
        headings=_headings(selection, rows),
        rows=rows,
        floor=floor,
        ceiling=highest,
        order=_order(rows, experiment.table.claims, selection.scale, health[schema.MEAN]),
        claims=judge_claims(experiment.table.claims, rows, health, selection.scale),
        notes=(*footnotes(selection, rows, experiment.seeds), *along, *remarks),
        planned_seeds=tuple(experiment.seeds),
        run_ids=frozenset(record.run_id for record in selection.records()),
        curve_columns=_curve_columns(experiment, selection.columns),
        published=_published(experiment, rows, paper),
        paired=_paired(experiment, selection.columns, paper),
        health=health,
    )


def sample_of(report: Report, records: Iterable[RunRecord], panels: Container[str] = ()) -> RunRecord | None:
    """The run whose answers stand for all: the first seed of the best arm that has a score.

    Args:
        panels: ids of runs that have a panel of pictures; where some of that arm have, the first of these.
    """
    means = {row.arm: (found.mean, row.scores[schema.MEAN]) for row in report.rows if (found := row.score())}
    runs = [r for r in records if r.run_id in report.run_ids and r.arm in means and r.seed in means[r.arm][1]]
    return max(runs, key=lambda r: (means[r.arm][0], r.run_id in panels, -r.seed), default=None)


def _paired(experiment: Experiment, columns: Sequence[str], paper: PaperTable | None) -> dict[str, str]:
    """Our columns that the paper's table has, too."""
    named = {column: experiment.table.paper_column(column) for column in columns}
    return {ours: theirs for ours, theirs in named.items() if paper and theirs in paper.columns}


def _published(experiment: Experiment, rows: Sequence[ArmRow], paper: PaperTable | None) -> tuple[ArmRow, ...]:
    """The paper's rows that no arm stands for, where the table shows them."""
    if paper is None or not experiment.table.published:
        return ()
    stood_for = {id(row.cell) for row in rows}
    return tuple(
        ArmRow(
            arm="", label=", ".join(str(v) for v in cell.values() if isinstance(v, str)), cell=cell,
            paper_score=_number(cell.get(experiment.table.score)), seeds={}, scores={}, blind={}, unparsed={},
            total_parameters=None, trainable_parameters=None, stand_ins={}, origin=PUBLISHED,
        )
        for cell in paper.rows
        if id(cell) not in stood_for
    )  # fmt: skip


def _row(experiment: Experiment, arm: str, selection: Selection, paper: PaperTable | None) -> ArmRow:
    written, runs = experiment.arms[arm], selection.runs[arm]
    cell = find_row(paper.key, written.cell) if paper and written.cell else None
    latest = list(runs.values())
    paired = _paired(experiment, selection.columns, paper)
    row = ArmRow(
        arm=arm,
        label=written.label or arm,
        cell=cell,
        paper_score=_number(cell.get(experiment.table.score)) if cell else None,
        seeds={seed: record.status for seed, record in runs.items()},
        scores=_by_seed(runs, selection.columns, blind=False),
        blind=_by_seed(runs, selection.columns, blind=True),
        unparsed=_unparsed(latest),
        total_parameters=_metric(latest, schema.PARAMS_TOTAL),
        trainable_parameters=_metric(latest, schema.PARAMS_TRAINABLE),
        stand_ins=latest[-1].stand_ins if latest else {},
        note=written.note or "",
        items=_items(runs, selection.columns),
        paper_scores={c: n for c, theirs in paired.items() if cell and (n := _number(cell.get(theirs))) is not None},
    )
    return replace(row, message=next((r.message for r in latest if r.status == row.status and r.message), ""))


def _number(value: object) -> float | None:
    """A score of the paper; a dash or a word is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _items(runs: Mapping[int, RunRecord], columns: Sequence[str]) -> dict[str, dict[int, Any]]:
    """Column -> seed -> scores by item, with images."""
    found: dict[str, dict[int, Any]] = {column: {} for column in columns}
    for seed, record in runs.items():
        for score in scores_of(record) if record.items else ():
            if not score.blind and (values := item_scores(score, record.items.get(score.column))) is not None:
                found[score.column][seed] = values
    return found


def _by_seed(runs: Mapping[int, RunRecord], columns: Sequence[str], *, blind: bool) -> dict[str, dict[int, float]]:
    """Column -> seed -> score, and "mean" for the seeds that have every column."""
    found: dict[str, dict[int, float]] = {column: {} for column in columns}
    for seed, record in runs.items():
        for score in scores_of(record):
            if score.blind is blind:
                found[score.column][seed] = score.score
    complete = [seed for seed in runs if columns and all(seed in found[c] for c in columns)]
    found[schema.MEAN] = {seed: fmean(found[c][seed] for c in columns) for seed in complete}
    return found


def _unparsed(records: Sequence[RunRecord]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for record in records:
        for score in scores_of(record):
            if not score.blind:
                before = counts.get(score.column, (0, 0))
                counts[score.column] = (before[0] + score.unparsed, before[1] + score.items)
    return counts


def _metric(records: Sequence[RunRecord], name: str) -> int | None:
    """Of the last run that has finished; where none has, of one that may not have come to its largest stage."""
    ended = sorted(records, key=lambda record: (record.status == schema.FINISHED, record.status in schema.DONE))
    found = (r.metrics[name] for r in reversed(ended) if name in r.metrics)
    return next((int(value) for value in found if math.isfinite(value)), None)


def _ranked(rows: Sequence[ArmRow]) -> tuple[ArmRow, ...]:
    paper = ranks([row.paper_score for row in rows])
    ours = ranks([found.mean if (found := row.score()) else None for row in rows])
    ranges = _ranges(rows)
    return tuple(
        replace(row, paper_rank=p, rank=r, rank_range=ranges.get(row.arm))
        for row, p, r in zip(rows, paper, ours, strict=True)
    )


def _ranges(rows: Sequence[ArmRow]) -> dict[str, tuple[int, int]]:
    """Arm -> the ranks that it may have; two arms are told apart where their paired difference is, at 95 %."""
    scored = [row for row in rows if row.score()]
    beats = set()
    for first, second in combinations(scored, 2):
        difference = first.minus(second)
        if difference and difference.low is not None and difference.high is not None:
            if difference.low > 0:
                beats.add((first.arm, second.arm))
            elif difference.high < 0:
                beats.add((second.arm, first.arm))
    return rank_ranges([row.arm for row in scored], beats)


def _floor(rows: Sequence[ArmRow], columns: Sequence[str]) -> dict[str, float]:
    floors = {c: [f.mean for row in rows if (f := row.floor(c))] for c in (*columns, schema.MEAN)}
    return {column: max(means) for column, means in floors.items() if means}


def _ceiling(selection: Selection, given: Mapping[str, float]) -> dict[str, float]:
    """What language models score when told in words what the images show: the highest mean over seeds of any arm."""
    found = {column: given[column] for column in selection.columns if column in given}
    for column in selection.columns:
        by_arm: dict[str, list[float]] = {}
        for record in selection.records():
            value = schema.ceiling_of(record.metrics, column)
            if value is not None and math.isfinite(value):
                by_arm.setdefault(record.arm, []).append(value)
        if by_arm:
            found[column] = max(map(fmean, by_arm.values()))
    if selection.columns and all(c in found for c in selection.columns):
        found[schema.MEAN] = fmean(found[c] for c in selection.columns)
    return found


def _order(rows: Sequence[ArmRow], claims: Sequence[Claim], scale: str, health: Health) -> Order | None:
    """Over pairs of arms that have both scores, without those that a claim calls untested at this scale or of which the
    scores say nothing. Pairs that the paper itself calls alike are ties."""
    both = [
        (row, row.paper_score, found.mean) for row in rows if row.paper_score is not None and (found := row.score())
    ]
    place = {row.arm: i for i, (row, _, _) in enumerate(both)}

    def pairs(of: Iterable[Claim]) -> set[frozenset[int]]:
        told = (pair for claim in of for pair in combinations(claim.arms, 2))
        return {frozenset((place[a], place[b])) for a, b in told if a in place and b in place}

    silent = {frozenset((place[a], place[b])) for a, b in combinations(place, 2) if health.silence((a, b))}
    order = compare_order(
        [p for _, p, _ in both],
        [o for _, _, o in both],
        left_out=silent | pairs(claim for claim in claims if scale in claim.untested),
        alike=pairs(claim for claim in claims if claim.relation == "similar"),
    )
    return order if order.told else None


def _headings(selection: Selection, rows: Sequence[ArmRow]) -> dict[str, str]:
    """Column -> its name for readers; columns that one benchmark stands in for are told apart by their own names."""
    found = {column: _heading(column, selection, rows) for column in selection.columns}
    names = Counter(found.values())
    return {c: f"{name} ({HEADINGS.get(c, c)})" if names[name] > 1 else name for c, name in found.items()}


def _heading(column: str, selection: Selection, rows: Sequence[ArmRow]) -> str:
    path = f"evaluation.benchmarks.{column}.benchmark"
    if any(path in row.stand_ins for row in rows):
        return selection.protocols[column].benchmark.replace("_", " ") if column in selection.protocols else column
    return HEADINGS.get(column, column)


def _curve_columns(experiment: Experiment, columns: tuple[str, ...]) -> tuple[str, ...]:
    curve = experiment.evaluation.curve
    return tuple(curve.benchmarks) if curve and curve.benchmarks else columns


def _paper_columns(experiment: Experiment, paper: PaperTable | None) -> tuple[str, ...]:
    if paper is None:
        return ()
    wanted = experiment.table.columns or paper.columns
    return tuple(c for c in wanted if c != experiment.table.score)
