"""Addresses of the MLflow UI's pages that show an ablation. Its front page is made for traces, so `ui` prints these."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

from vlm_ablate.tracking import schema
from vlm_ablate.tracking.sqlite_reader import SqliteReader, sqlite_path

_MODE = "workflowType=machine_learning"
"""Shows the pages of model training instead of those of generative AI."""


@dataclass(frozen=True)
class Pages:
    """Pages of one experiment."""

    experiment: str
    runs: str
    """All runs as a table."""
    charts: str
    """All metrics of all runs, one chart each."""
    compare: str | None
    """Scores, params and metrics of the finished runs side by side; None without any."""


def ui_pages(tracking_uri: str, address: str) -> list[Pages]:
    """The pages of every experiment of a local store (none of any other), served at `address` (e.g. http://127.0.0.1:5000).

    Raises:
        TrackingError: the store does not exist or cannot be read.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return []
    reader, pages = SqliteReader(path), []
    for number, name in reader.experiments():
        records = [r for r in reader.runs(name) if r.kind == schema.RUN_KIND and r.status in schema.DONE]
        base = f"{address}/#/experiments/{number}/runs?{_MODE}"
        compare = None
        if records:
            runs = quote(json.dumps([record.run_id for record in records], separators=(",", ":")))
            compare = f"{address}/#/compare-runs?runs={runs}&experiments={quote(json.dumps([str(number)]))}&{_MODE}"
        pages.append(Pages(name, base, f"{base}&compareRunsMode=CHART", compare))
    return pages
