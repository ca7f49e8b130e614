"""The experiment's summary run in the tracking store: the table, its figures and the verdicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.tracking.record_file import RecordFile


def publish_table(
    loaded: LoadedExperiment, home: Home, tracking_uri: str, source: RecordFile | None = None
) -> list[Path]:
    """Write the results into the home folder and put them on the summary run; returns the files.

    Args:
        source: what the table is computed from; None: the home's runs.

    Raises:
        VlmAblateError: the store or the folder fails, or the records do not make a table.
    """
    from vlm_ablate.cli.records import build_report, recorded
    from vlm_ablate.reporting import render, write_results
    from vlm_ablate.tracking.store import describe_experiment
    from vlm_ablate.tracking.summary import record_table, register_experiment

    source = recorded(loaded, home) if source is None else source
    report = build_report(loaded, source)
    folder = home.root / "tables" / loaded.experiment.name / loaded.scale.name
    files = write_results(report, source.records, folder, source.histories)
    markdown = str(render(report, "markdown"))
    claims = [asdict(claim) for claim in report.claims]
    name, scale = loaded.experiment.name, loaded.scale.name
    register_experiment(tracking_uri, name, describe_experiment(loaded.experiment))
    record_table(tracking_uri, name, files, markdown=markdown, claims=claims, scale=scale)
    return files
