"""`vlm-ablate table FILE`: the table of an experiment, from its records only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption, ScaleOption, SeedsOption, SetOption, TrackingOption

if TYPE_CHECKING:
    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.reporting import Report


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
    records: Annotated[Path | None, typer.Option(help="Records file to read instead of the tracking store.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Print the table of an experiment, the paper's numbers beside ours, from tracked records only.

    The words of a `run` (--scale, --arms, --seeds, --set) give the table of what it ran.
    """
    from vlm_ablate.cli.console import arm_list, seed_list
    from vlm_ablate.config.expand import load_experiment

    folder = out is not None and (out.is_dir() or (not out.suffix and format is None))
    kind = None if folder else _format(format, out)
    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=arm_list(arms))
    uri = _tracking_uri(home, tracking_uri)
    report = build_report(loaded, uri, seed_list(seeds), records)
    if folder:
        return _write_folder(loaded, report, uri, records, out)
    _write(report, kind, out)


def build_report(
    loaded: LoadedExperiment, tracking_uri: str, seeds: list[int] | None = None, records_file: Path | None = None
) -> Report:
    """The report of an experiment as it is written now; records of other configurations are set aside.

    Args:
        seeds: only these; None: the file's, and any others that were run.

    Raises:
        TrackingError: no store there, or a file that holds no records.
    """
    from vlm_ablate.reporting import report
    from vlm_ablate.runs.spec import specs_of
    from vlm_ablate.tracking.record_file import load_records
    from vlm_ablate.tracking.records import read_records

    experiment = loaded.experiment
    found = load_records(records_file).records if records_file else read_records(tracking_uri, experiment.name)
    if seeds is not None:
        experiment = experiment.model_copy(update={"seeds": seeds})
        found = [record for record in found if record.seed in seeds]
    numbers = sorted({*experiment.seeds, *(record.seed for record in found)})
    hashes = {spec.hash for spec in specs_of(loaded, seeds=numbers)}
    return report(experiment, found, loaded.scale.name, hashes=hashes, remarks=_remarks(loaded))


def _remarks(loaded: LoadedExperiment) -> list[tuple[str, str]]:
    """What the table shows other than the file says."""
    remarks = []
    if loaded.sets:
        remarks.append(("Set by hand", f"{'; '.join(loaded.sets)}."))
    if loaded.left_out:
        labels = "; ".join(loaded.left_out.values())
        remarks.append(("Arms left out", f"{labels}. Ranks and order are those among the arms shown."))
    return remarks


def _tracking_uri(home: str | None, tracking_uri: str | None) -> str:
    from vlm_ablate.cli.home import open_home

    return tracking_uri or open_home(home).tracking_uri


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


def _write_folder(loaded: LoadedExperiment, report: Report, uri: str, records: Path | None, out: Path) -> None:
    from vlm_ablate.cli.publish import histories
    from vlm_ablate.reporting import write_results
    from vlm_ablate.tracking.record_file import load_records
    from vlm_ablate.tracking.records import read_records

    if records is not None:
        read = load_records(records)
        found, curves = read.records, read.histories
    else:
        found = read_records(uri, loaded.experiment.name)
        curves = histories(uri, found)
    for path in write_results(report, found, out, curves):
        typer.echo(f"wrote {path}", err=True)
