"""The files that a run leaves for people: its configuration, its plan, predictions as a table, a panel of examples."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.csv_text import csv_cell
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import atomic_file, write_atomically

if TYPE_CHECKING:
    from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
    from vlm_ablate.evaluation.predictions import Prediction

EXAMPLES_PER_BENCHMARK = 5


@dataclass(frozen=True)
class Answered:
    """The predictions of one evaluation, with the items they answer."""

    column: str
    blind: bool
    predictions: Sequence[Prediction]
    items: Mapping[str, BenchmarkItem]
    """By id; may hold only the first few."""
    benchmark: str = ""
    """What stands in the column, where that is not the column's own."""


def write_config(spec: RunSpec, path: Path) -> None:
    """The resolved run as YAML: labels, seeds and every field of the configuration."""
    from vlm_ablate.config.yaml_reader import to_yaml

    write_atomically(path, to_yaml(spec.to_dict(), width=120))


def write_plan(plan: Any, path: Path) -> None:
    """A plan (a dataclass) as JSON."""
    body = asdict(plan) if is_dataclass(plan) and not isinstance(plan, type) else plan
    write_atomically(path, json.dumps(body, indent=1, default=str))


def write_predictions(answered: Sequence[Answered], path: Path) -> None:
    """All predictions as one CSV: column, blind, id, question, prediction, references, score, demonstrations."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["column", "blind", "id", "question", "prediction", "references", "score", "demonstrations"])
    for part in answered:
        for p in part.predictions:
            references, shots = " | ".join(p.references), " ".join(p.shots)
            score = "" if p.score is None else f"{p.score:.4f}"
            row = [part.column, part.blind, p.id, p.question, p.prediction, references, score, shots]
            writer.writerow(map(csv_cell, row))
    write_atomically(path, buffer.getvalue())


def write_examples(answered: Sequence[Answered], path: Path, title: str) -> None:
    """A picture panel: one row a benchmark, each cell an image with question, reference and the model's answer.

    Blind evaluations are left out. Green is right, red is wrong, grey in between.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [part for part in answered if not part.blind and part.items]
    if not rows:
        return
    figure = Figure(figsize=(2.3 * EXAMPLES_PER_BENCHMARK, 3.5 * len(rows) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(len(rows), EXAMPLES_PER_BENCHMARK, squeeze=False)
    for row, part in zip(axes, rows, strict=True):
        shown = [p for p in part.predictions if p.id in part.items][:EXAMPLES_PER_BENCHMARK]
        row[0].set_ylabel(_row_name(part), fontsize=11)
        for i, cell in enumerate(row):
            cell.set_xticks([])
            cell.set_yticks([])
            if i < len(shown):
                _draw(cell, part.items[shown[i].id], shown[i])
            else:
                cell.set_frame_on(False)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def _row_name(part: Answered) -> str:
    own = not part.benchmark or part.benchmark == part.column
    return part.column if own else f"{part.column}\n{part.benchmark.replace('_', ' ')}"


def _draw(cell: Any, item: BenchmarkItem, prediction: Prediction) -> None:
    if item.images:
        picture = item.images[0].load()
        cell.imshow(picture, interpolation="nearest" if max(picture.size) < 200 else None)
    question = "\n".join(textwrap.wrap(_plain(prediction.question), 27)[:3])
    cell.set_title(question, fontsize=9, loc="left")
    reference = textwrap.shorten(_plain(prediction.references[0]), 60)
    answer = textwrap.shorten(_plain(prediction.prediction), 60) or "(nothing)"
    score = prediction.score or 0.0
    colour = "#1a7f37" if score >= 0.99 else "#b42318" if score < 0.01 else "#57606a"
    lines = textwrap.wrap(f"is: {reference}", 28) + textwrap.wrap(f"says: {answer}", 28)
    cell.set_xlabel("\n".join(lines), fontsize=9, loc="left", color=colour)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return " ".join(text.replace("$", r"\$").split())
