"""Scoring answers that came from anywhere: lines of JSON with `prediction` and `references`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.metrics import Metric, MetricResult, metrics
from vlm_ablate.limits import parse_json


def score_file(metric: str | Metric, path: Path) -> MetricResult:
    """Score a JSONL file of objects with `prediction` (text) and `references` (list of texts); other keys are ignored.

    Raises:
        UnknownNameError: no metric has that name.
        DataError: the file cannot be read, or a line is not such an object; the message says which.
    """
    scorer = metrics[metric] if isinstance(metric, str) else metric
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    rows = [_row(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    return scorer.corpus([r[0] for r in rows], [r[1] for r in rows])


def _row(line: str, where: str) -> tuple[str, list[str]]:
    try:
        row: Any = parse_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not a JSON object: {error.msg}") from error
    except ValueError as error:  # a number of more digits than Python reads, lists without end
        raise DataError(f"{where}: cannot be read as JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object")
    missing = [key for key in ("prediction", "references") if key not in row]
    if missing:
        found = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"{where}: no {' and no '.join(map(repr, missing))}; found: {found}")
    prediction, references = row["prediction"], row["references"]
    if not isinstance(prediction, str):
        raise DataError(f"{where}: 'prediction' must be a text, not {type(prediction).__name__}")
    if not isinstance(references, list):
        raise DataError(f"{where}: 'references' must be a list of texts, not {type(references).__name__}")
    for reference in references:
        if not isinstance(reference, str):
            raise DataError(f"{where}: 'references' must be a list of texts; one is {type(reference).__name__}")
    if not references:
        raise DataError(f"{where}: 'references' is empty; there is nothing to score against")
    return prediction, references
