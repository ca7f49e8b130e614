"""`vlm-ablate table FILE`: the table of an experiment, from its records only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption, ScaleOption, SeedsOption, SetOption, TrackingOption, few_collections

if TYPE_CHECKING:
    from vlm_ablate.reporting import Report
    from vlm_ablate.tracking.record_file import RecordFile


@few_collections()
def table(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "laptop",
    arms: Annotated[
        str | None,
        typer.Option(
            "--arms",
            metavar="NAME,...",
            help="Only these arms, separated by commas; the others' rows, with the paper's numbers, and claims are "
            "left out, and --set reaches no other.",
        ),
    ] = None,
    seeds: SeedsOption = None,
    sets: SetOption = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="markdown, latex, csv, html or png. Default: for the terminal.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File (its ending chooses the format), or a folder for everything."),
    ] = None,
    records: Annotated[Path | None, typer.Option(help="Records file to read instead of the home folder.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Print the table of an experiment, the paper's numbers beside ours, from tracked records only.

    The words of a `run` (--scale, --arms, --seeds, --set) give the table of what it ran.

    Example: vlm-ablate table idefics2/t03_architecture --format latex --out table.tex
    """
    from vlm_ablate.cli.console import arm_list, print_runs, seed_list
    from vlm_ablate.cli.home import open_home, take_over_earlier
    from vlm_ablate.cli.records import build_report, recorded, with_rows
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.runs.once import looking_once

    folder = out if out is not None and (out.is_dir() or (not out.suffix and format is None)) else None
    kind = _format(format, None if folder else out)
    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=arm_list(arms))
    if records is not None:
        from vlm_ablate.tracking.record_file import load_records

        source = load_records(records)
    else:
        place = open_home(home)
        take_over_earlier(place)
    with looking_once():
        if records is None:
            loaded = loaded if arms is not None else with_rows(loaded, place)
            source = recorded(loaded, place, tracking_uri, seed_list(seeds))
        report = build_report(loaded, source, seed_list(seeds))
    if folder:
        return _write_folder(report, source, folder)
    _write(report, kind, out)
    if kind is None and out is None and records is None:
        print_runs((r.arm, r.seed, r.id) for r in source.records if r.run_id in report.run_ids)


def _format(format: str | None, out: Path | None) -> str | None:
    """The format asked for, or the one that the file's ending says; None: the terminal."""
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.reporting import FORMATS
    from vlm_ablate.reporting.renderers import SUFFIXES

    if format is None and out is not None:
        format = next((f for f, suffix in SUFFIXES.items() if out.suffix == f".{suffix}"), out.suffix)
    if format is not None and format not in FORMATS:
        raise UnknownNameError("table format", format, FORMATS)
    return format


def _write(report: Report, format: str | None, out: Path | None) -> None:
    from vlm_ablate.cli.console import out as stdout
    from vlm_ablate.reporting import render
    from vlm_ablate.storage import write_atomically

    if format is None and stdout().is_terminal:
        from vlm_ablate.reporting.renderers.terminal import print_report

        print_report(report, stdout())
        return
    document = render(report, format or "markdown")
    if out is None and isinstance(document, bytes):
        out = Path(f"{report.experiment.replace('/', '_')}.{format}")
    if out is None:
        typer.echo(document)
        return
    write_atomically(out.absolute(), document)
    typer.echo(f"wrote {out}", err=True)


def _write_folder(report: Report, source: RecordFile, out: Path) -> None:
    from vlm_ablate.reporting import write_results

    for path in write_results(report, source.records, out, source.histories, source.answers, source.examples):
        typer.echo(f"wrote {path}", err=True)
