"""`vlm-ablate reproduce`: every table of the papers, as one campaign."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption, HubOption, ScaleOption, SeedsOption, TrackingOption
from vlm_ablate.cli.launchers import (
    AddressOption,
    GpusOption,
    JobsOption,
    LauncherOption,
    LauncherSetOption,
    NodesOption,
    ThreadsOption,
    Where,
    launch,
    where_to,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.reporting import Report
    from vlm_ablate.runs.outcome import RunOutcome
    from vlm_ablate.runs.spec import RunSpec
    from vlm_ablate.tracking.record_file import RecordFile


def reproduce(
    papers: Annotated[
        str, typer.Option("--papers", metavar="NAME,...", help="Folders of experiments/ whose tables are regenerated.")
    ] = "idefics2,idefics3",
    experiments: Annotated[
        str | None,
        typer.Option(
            "--experiments",
            metavar="NAME,...",
            help="Only these, by name or pattern, e.g. 'idefics2/t1*'; then --papers leaves none out.",
        ),
    ] = None,
    scale: ScaleOption = "laptop",
    seeds: SeedsOption = None,
    jobs: JobsOption = None,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "local",
    gpus_per_run: GpusOption = None,
    nodes_per_run: NodesOption = None,
    ray_address: AddressOption = None,
    launcher_sets: LauncherSetOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it takes, and begin nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the tables, with predictions. Default: tables/ in the home."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results as --out writes them: runs that are recorded there are not computed again, and "
            "stand in the tables beside those of the home.",
        ),
    ] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Regenerate all tables: what two of them need is trained once, one seed of every table before the next.

    Finished runs are not repeated and interrupted ones continue, so the same command goes on from where it was. It ends
    with every table, and one page with the claims of all.

    Example: vlm-ablate reproduce --papers idefics2 --seeds 0,1,2
    """
    from vlm_ablate.cli.console import out as stdout
    from vlm_ablate.cli.console import seed_list, warn
    from vlm_ablate.cli.home import open_home, take_over_earlier
    from vlm_ablate.cli.reproduce_set import load_set, recorded_in, unlike_arms
    from vlm_ablate.cli.reproduce_view import plan_table, sentences
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.launch.together import account, seed_by_seed
    from vlm_ablate.runs.once import looking_once
    from vlm_ablate.runs.results import find_results
    from vlm_ablate.runs.spec import specs_of

    set_hub_access(allow_hub)
    numbers = seed_list(seeds)
    loaded = load_set(papers, experiments, scale)
    tables = {each.experiment.name: specs_of(each, seeds=numbers) for each in loaded}
    brought = recorded_in(records, loaded, tables) if records is not None else {}
    where = where_to(
        launcher, jobs=jobs, threads=threads, gpus=gpus_per_run, nodes=nodes_per_run, ray_address=ray_address,
        sets=launcher_sets or [],
    )  # fmt: skip
    place = open_home(home)
    written = out or place.root / "tables"
    if records is not None and numbers is not None and not plan and written.resolve() == records.resolve():
        _check_none_goes(records, brought, numbers)
    take_over_earlier(place)
    done = {record.id for file in brought.values() for record in file.records}
    ours = {name: [spec for spec in specs if spec.id not in done] for name, specs in tables.items()}
    elsewhere = {name: len(specs) - len(ours[name]) for name, specs in tables.items()}
    with looking_once():
        found = {name: [find_results(spec, place) for spec in specs] for name, specs in ours.items()}
    everything = [results for each in found.values() for results in each]
    console = stdout()
    console.print(plan_table(loaded, found, elsewhere))
    console.print(*sentences(account(everything)), sep="\n", soft_wrap=True)
    unlike = unlike_arms(loaded)
    if plan:
        warn([text for _, text in unlike])
        return
    asked = seed_by_seed(ours.values())
    noted = {r.spec.id for r in everything if r.done and r.attempt.get("status") == r.status}
    outcomes: list[RunOutcome] = []
    if any(spec.id not in noted for spec in asked):
        outcomes = _run(loaded, asked, place, tracking_uri or place.tracking_uri, where, noted)
    fresh = {s.experiment for s, o in zip(asked, outcomes, strict=True) if not o.reused} if outcomes else set()
    _write(loaded, numbers, place, tracking_uri, out, fresh, unlike, brought)
    ended = {results.spec.id: results.status for results in everything}
    statuses: list[str] = [outcome.status for outcome in outcomes] or [ended[spec.id] for spec in asked]
    counts = Counter([*statuses, *["recorded"] * sum(elsewhere.values())])
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"]:
        raise typer.Exit(1)


def _check_none_goes(records: Path, brought: Mapping[str, RecordFile], seeds: Sequence[int]) -> None:
    """
    Raises:
        VlmAblateError: in the folder that is written anew, records would be missing of seeds that were not asked for.
    """
    from vlm_ablate.cli.console import usage_error

    gone = sorted({record.seed for file in brought.values() for record in file.records} - {*seeds})
    if gone:
        told = f"seed{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}"
        raise usage_error(
            f"--seeds: {records} is also the folder that is written, and would lose its records of {told}",
            "name these seeds, too, or write into another folder with --out",
        )


def _run(
    loaded: Sequence[LoadedExperiment],
    specs: Sequence[RunSpec],
    home: Home,
    tracking_uri: str,
    where: Where,
    done: set[str],
) -> list[RunOutcome]:
    """Run what is missing, after a look at all of its material.

    Raises:
        DataError: with all problems of the material.
    """
    from vlm_ablate.cli.run import look_over_material, report_failures

    home.prepare()
    for each in loaded:
        look_over_material([s for s in specs if s.experiment == each.experiment.name and s.id not in done])
    outcomes = launch(specs, home, tracking_uri, where)
    report_failures(outcomes)
    return outcomes


def _write(
    loaded: Sequence[LoadedExperiment],
    seeds: list[int] | None,
    home: Home,
    tracking_uri: str | None,
    out: Path | None,
    fresh: set[str],
    unlike: Sequence[tuple[str, str]],
    brought: Mapping[str, RecordFile],
) -> None:
    """All tables, those with new runs in the tracking store, too, and the page over all. What fails is a warning."""
    from vlm_ablate.cli.console import err, warn
    from vlm_ablate.cli.publish import publish_table
    from vlm_ablate.cli.records import build_report, joined, recorded
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.reporting import write_results
    from vlm_ablate.runs.catalogue import asked_here
    from vlm_ablate.runs.once import looking_once

    reports: list[Report] = []
    home.prepare()  # it has no runs where all were recorded elsewhere
    asked = asked_here(home)

    def source_of(each: LoadedExperiment, numbers: list[int] | None) -> RecordFile:
        name, found = each.experiment.name, recorded(each, home, tracking_uri, numbers, asked=asked)
        if name not in brought:
            return found
        # As they are recorded: arms of one seed are of one machine there.
        return replace(joined(brought[name], found, name, each.scale.name), left_out=found.left_out)

    root = out or home.root / "tables"
    with err().status("writing the tables") as status:
        for each in loaded:
            name, scale = each.experiment.name, each.scale.name
            status.update(f"writing the table of {name}")
            try:
                with looking_once():
                    source = source_of(each, seeds)
                    report = build_report(each, source, seeds)
                kept = (source.answers, source.examples) if out else ()
                write_results(report, source.records, root / name / scale, source.histories, *kept, again=False)
                reports.append(report)
                if name in fresh:
                    whole = source if seeds is None else source_of(each, None)
                    publish_table(each, home, tracking_uri or home.tracking_uri, whole)
            except VlmAblateError as error:
                warn([f"{name}: {error.message}"])
    if reports:
        for path in _write_overview(reports, loaded[0].scale.name, root, unlike):
            typer.echo(f"wrote {path}", err=True)


def _write_overview(reports: Sequence[Report], scale: str, root: Path, unlike: Sequence[tuple[str, str]]) -> list[Path]:
    from vlm_ablate.reporting.overview import overview
    from vlm_ablate.reporting.renderers import html, markdown
    from vlm_ablate.storage import write_atomically

    page = overview(reports, scale, unlike)
    written = []
    for suffix, text in (("md", markdown.render(page)), ("html", html.render(page))):
        path = (root / f"all-{scale}.{suffix}").absolute()
        write_atomically(path, text)
        written.append(path)
    return written
