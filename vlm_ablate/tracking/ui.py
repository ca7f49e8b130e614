"""Addresses of the MLflow UI's pages that show an ablation. Its front page is made for traces, so `ui` prints these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import RunRecord
from vlm_ablate.tracking.shared_view import (
    COMPARE_VIEW,
    RUNS_VIEW,
    compare_view,
    encoded,
    query,
    runs_view,
    sweep_view,
    tag,
)
from vlm_ablate.tracking.sqlite_reader import SqliteReader, sqlite_path

_MODE = "workflowType=machine_learning"
"""Shows the pages of model training instead of those of generative AI."""


@dataclass(frozen=True)
class Pages:
    """Pages of one experiment."""

    experiment: str
    runs: str
    """All runs as a table, grouped by arm, with their scores."""
    charts: str
    """Scores, curves, losses and sizes by arm."""
    compare: str
    """What differs between runs against their scores."""


def ui_pages(tracking_uri: str, address: str) -> list[Pages]:
    """The pages of every experiment of a local store (none of any other), served at `address` (e.g. http://127.0.0.1:5000).

    Raises:
        TrackingError: the store does not exist or cannot be read.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return []
    pages = []
    for number, name in SqliteReader(path).experiments():
        base = f"{address}/#/experiments/{number}/runs?{_MODE}"
        charts = f"{base}&compareRunsMode=CHART"
        pages.append(Pages(name, f"{base}&{query(RUNS_VIEW)}", f"{charts}&{query(RUNS_VIEW)}",
                           f"{charts}&{query(COMPARE_VIEW)}"))  # fmt: skip
    return pages


def write_views(tracking_uri: str) -> None:
    """Give every experiment of a local store the view that the addresses of `ui_pages` open.

    Raises:
        TrackingError: the store does not exist, or cannot be read or written.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return
    reader = SqliteReader(path)
    for number, name in reader.experiments():
        every = reader.runs(name)
        records = [record for record in every if record.kind == schema.RUN_KIND]
        benchmarks = _benchmarks(records)
        views = {RUNS_VIEW: runs_view(benchmarks), COMPARE_VIEW: compare_view(benchmarks, _varied(records))}
        if sweep := next((record for record in every if record.kind == schema.SWEEP_KIND), None):
            fields = _params_of(schema.read_json_tag(sweep.tags, schema.SEARCHED, []), records)
            objective = sweep.tags.get(schema.OBJECTIVE, schema.MEAN)
            views[RUNS_VIEW] = sweep_view(benchmarks, fields[:AXES], objective)
            views[COMPARE_VIEW] = compare_view(benchmarks, fields[:AXES] or _varied(records))
        tags = {tag(key): encoded(view) for key, view in views.items()}
        if any(reader.experiment_tag(number, key) != value for key, value in tags.items()):
            from vlm_ablate.tracking.store import connect, open_experiment  # imports mlflow, which takes seconds

            open_experiment(connect(tracking_uri), tracking_uri, name, tags)


AXES = 8
"""Parameters in the parallel coordinates: more cannot be told apart."""


def _varied(records: Sequence[RunRecord]) -> list[str]:
    """Parameters that all runs have and that differ between them: the arm first, then the seed, then fields by name."""
    first = [schema.PARAM_ARM, schema.PARAM_SEED]
    names = first + sorted({name for record in records for name in record.params} - set(first))
    values = {name: {record.params.get(name) for record in records} for name in names}
    differing = [name for name in names if len(values[name]) > 1 and None not in values[name]]
    shown = [name for name in differing if not name.startswith(("seeds.", f"{schema.PARAM_ARM}."))]
    return shown[:AXES] or first[:1]


def _params_of(fields: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Parameters of runs that dotted fields, perhaps with `*`, stand for, in the order of the fields."""
    there = dict.fromkeys(name for record in records for name in record.params)
    patterns = [re.compile(re.escape(str(field)).replace(r"\*", r"[^.]+")) for field in fields]
    return list(dict.fromkeys(name for pattern in patterns for name in there if pattern.fullmatch(name)))


def _benchmarks(records: Sequence[RunRecord]) -> list[str]:
    """Columns of the scores, in the order in which the runs list them."""
    return list(dict.fromkeys(str(s["column"]) for record in records for s in record.scores if not s.get("blind")))
