"""The experiment's summary run in the tracking store: the table, its figures and the verdicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.tracking.records import History, RunRecord


def publish_table(loaded: LoadedExperiment, home: Home, tracking_uri: str) -> list[Path]:
    """Write the results into the home folder and put them on the summary run; returns the files.

    Raises:
        VlmAblateError: the store or the folder fails, or the records do not make a table.
    """
    from vlm_ablate.cli.table import build_report
    from vlm_ablate.reporting import render, write_results
    from vlm_ablate.tracking.records import read_records
    from vlm_ablate.tracking.store import describe_experiment
    from vlm_ablate.tracking.summary import record_table, register_experiment

    report = build_report(loaded, tracking_uri)
    records = read_records(tracking_uri, loaded.experiment.name)
    folder = home.root / "tables" / loaded.experiment.name / loaded.scale.name
    files = write_results(report, records, folder, histories(tracking_uri, records))
    markdown = str(render(report, "markdown"))
    claims = [asdict(claim) for claim in report.claims]
    name, scale = loaded.experiment.name, loaded.scale.name
    register_experiment(tracking_uri, name, describe_experiment(loaded.experiment))
    record_table(tracking_uri, name, files, markdown=markdown, claims=claims, scale=scale)
    return files


def histories(tracking_uri: str, records: list[RunRecord]) -> dict[str, History]:
    """Run id -> the metric histories that the figures need."""
    from vlm_ablate.reporting.figures import HISTORY_METRICS
    from vlm_ablate.tracking.records import read_history

    return {record.run_id: read_history(tracking_uri, record.run_id, HISTORY_METRICS) for record in records}
