"""CSV: one line for each arm and column, full precision, nothing that needs a footnote left in one."""

from __future__ import annotations

import csv
import io
import json

from vlm_ablate.csv_text import csv_cell
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.rows import PUBLISHED, ArmRow
from vlm_ablate.tracking import schema

FIELDS = (
    "experiment",
    "scale",
    "arm",
    "label",
    "paper_table",
    "paper_cell",
    "paper_score",
    "paper_rank",
    "status",
    "seeds",
    "rank",
    "rank_best",
    "rank_worst",
    "column",
    "scored_on",
    "paper_value",
    "mean",
    "half_width_95",
    "blind_mean",
    "blind_half_width_95",
    "unparsed",
    "answers",
    "total_parameters",
    "trainable_parameters",
    "stand_ins",
)


def render(report: Report) -> str:
    """Long format: `column` is a benchmark or "mean"; the paper's values repeat on every line of an arm."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in report.shown:
        for column in (schema.MEAN, *(() if row.status == PUBLISHED else report.columns)):
            writer.writerow({name: csv_cell(value) for name, value in _line(report, row, column).items()})
    return out.getvalue()


def _line(report: Report, row: ArmRow, column: str) -> dict[str, object]:
    score, floor = row.score(column), row.floor(column)
    unparsed, answers = row.unparsed.get(column, (None, None))
    return {
        "experiment": report.experiment,
        "scale": report.scale,
        "arm": row.arm,
        "label": row.label,
        "paper_table": report.paper.key if report.paper else None,
        "paper_cell": json.dumps(row.cell, ensure_ascii=False) if row.cell else None,
        "paper_score": row.paper_score,
        "paper_rank": row.paper_rank,
        "status": row.status,
        "seeds": score.n if score else 0,
        "rank": row.rank,
        "rank_best": row.rank_range and row.rank_range[0],
        "rank_worst": row.rank_range and row.rank_range[1],
        "column": column,
        "scored_on": report.headings.get(column),
        "paper_value": row.paper_score if column == schema.MEAN else row.paper_scores.get(column),
        "mean": score and score.mean,
        "half_width_95": score and score.half_width,
        "blind_mean": floor and floor.mean,
        "blind_half_width_95": floor and floor.half_width,
        "unparsed": unparsed,
        "answers": answers,
        "total_parameters": row.total_parameters,
        "trainable_parameters": row.trainable_parameters,
        "stand_ins": "; ".join(f"{path}: {what}" for path, what in row.stand_ins.items()) or None,
    }
