"""`vlm-ablate run FILE`: train and evaluate what is missing of an experiment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import (
    ArmsOption,
    HomeOption,
    HubOption,
    ScaleOption,
    SeedsOption,
    SetOption,
    TrackingOption,
)
from vlm_ablate.cli.launchers import (
    AddressOption,
    GpusOption,
    JobsOption,
    LauncherOption,
    LauncherSetOption,
    NodesOption,
    ThreadsOption,
    launch,
    where_to,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.launch.seats import Seat
    from vlm_ablate.runs.outcome import RunOutcome
    from vlm_ablate.runs.spec import RunSpec


def run(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "laptop",
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    sets: SetOption = None,
    jobs: JobsOption = None,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "local",
    gpus_per_run: GpusOption = None,
    nodes_per_run: NodesOption = None,
    ray_address: AddressOption = None,
    launcher_sets: LauncherSetOption = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Compute again what is there; the earlier results are put aside.")
    ] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Run every arm with every seed. Finished runs are not repeated; an interrupted one continues.

    Example: vlm-ablate run idefics2/t03_architecture --seeds 0,1,2 --jobs 2
    """
    from rich.text import Text

    from vlm_ablate.cli.console import arm_list, counted, out, print_runs, seed_list, warn
    from vlm_ablate.cli.home import open_home, take_over_earlier
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.launch.seats import holding
    from vlm_ablate.runs.spec import specs_of

    set_hub_access(allow_hub)
    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=arm_list(arms))
    specs = specs_of(loaded, seeds=seed_list(seeds))
    where = where_to(
        launcher, jobs=jobs, threads=threads, gpus=gpus_per_run, nodes=nodes_per_run, ray_address=ray_address,
        sets=launcher_sets or [], together=True,
    )  # fmt: skip
    place = open_home(home)
    if where.seat is not None and where.seat.index:
        raise typer.Exit(_follow(where.seat, specs))
    warn(loaded.warnings)
    uri = tracking_uri or place.tracking_uri
    console = out()
    count = counted(len(specs), "run")
    console.print(f"{loaded.experiment.name}  {count} at scale {loaded.scale.name!r}, home {place.root}")
    place.prepare()
    take_over_earlier(place)
    if rerun:
        _put_aside(specs, place)
    look_over_material([spec for spec in specs if not _is_done(spec, place)])
    with holding(where.seat, specs, place, lambda message: warn([message])):
        outcomes = launch(specs, place, uri, where)
    if any(not outcome.reused for outcome in outcomes):
        _publish(loaded, scale, place, uri)
    counts = Counter(outcome.status for outcome in outcomes)
    earlier = sum(outcome.reused for outcome in outcomes)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(told + (f" ({earlier} recorded earlier)" if earlier else ""))
    ended = zip(specs, outcomes, strict=True)
    print_runs((spec.arm, spec.seed, spec.id) for spec, outcome in ended if outcome.status == "finished")
    report_failures(outcomes)
    command = table_command(file, scale, arms, sets or [], home, tracking_uri)
    console.print("the table: ", Text(command, style="bold"), sep="", soft_wrap=True)
    if counts["failed"] or not (counts["finished"] or counts["diverged"]):
        raise typer.Exit(1)


def _follow(seat: Seat, specs: Sequence[RunSpec]) -> int:
    """One of several processes that train together, but the first: returns its exit status."""
    from vlm_ablate.cli.console import err
    from vlm_ablate.launch.seats import follow

    console = err()
    console.print(f"rank {seat.index} of {seat.count}: trains what rank 0 says, which reports", soft_wrap=True)
    status, message = follow(seat, specs)
    if message:
        console.print(f"rank {seat.index}: ended with rank 0: {message}", soft_wrap=True, markup=False)
    return status


def _put_aside(specs: Sequence[RunSpec], home: Home) -> None:
    from vlm_ablate.cli.console import counted, err, warn
    from vlm_ablate.runs.rerun import put_aside

    moved = put_aside(specs, home, lambda message: warn([message]))
    if moved:
        err().print(f"{counted(len(moved), 'stage')} put aside in {moved[0].parent}", soft_wrap=True)


def _is_done(spec: RunSpec, home: Home) -> bool:
    from vlm_ablate.runs.results import find_results

    return find_results(spec, home).done


def look_over_material(specs: Sequence[RunSpec]) -> None:
    """Say everything that is wrong with the material of these runs before the first of them is trained.

    Raises:
        DataError: with all problems.
    """
    if not specs:
        return
    from vlm_ablate.cli.console import err, warn
    from vlm_ablate.evaluation.material import look_over

    with err().status("opening sources and benchmarks"):
        material = look_over({spec.arm: spec.config for spec in specs})
    warn(material.warnings())
    if error := material.error():
        raise error


def _publish(loaded: LoadedExperiment, scale: str, home: Home, tracking_uri: str) -> None:
    """Put the table on the experiment's summary run, with all arms of the file, whichever were run now.

    Some arms under settings of their own do not replace it. A failure is only a warning: the runs are safe already.
    """
    from vlm_ablate.cli.console import warn
    from vlm_ablate.cli.publish import publish_table
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.errors import VlmAblateError

    if loaded.left_out and loaded.sets:
        return
    try:
        whole = load_experiment(loaded.file, scale=scale) if loaded.left_out else loaded
        publish_table(whole, home, tracking_uri)
    except VlmAblateError as error:
        warn([f"the table was not put on the tracking store: {error.message}"])


def report_failures(outcomes: Sequence[RunOutcome]) -> None:
    """Why runs failed or were skipped, a line each."""
    from rich.text import Text

    from vlm_ablate.cli.console import err

    for outcome in outcomes:
        if outcome.status in ("failed", "skipped"):
            style = "bold red" if outcome.status == "failed" else "yellow"
            err().print(
                Text.assemble((f"{outcome.status}: ", style), outcome.name, f": {outcome.message}"), soft_wrap=True
            )


def table_command(
    file: Path, scale: str, arms: str | None, sets: Sequence[str], home: str | None, tracking_uri: str | None
) -> str:
    """The command that shows these runs: in the whole table, or under settings in one of the same arms."""
    import os
    import shlex

    from vlm_ablate.masking import masked

    parts = ["vlm-ablate", "table", str(file), *(["--scale", scale] if scale != "laptop" else [])]
    parts += ["--arms", arms] if arms and sets else []
    parts += [part for setting in sets for part in ("--set", setting)]
    parts += ["--home", home] if home else []
    given = tracking_uri if tracking_uri != os.environ.get("MLFLOW_TRACKING_URI") else None
    return masked(shlex.join([*parts, *(["--tracking-uri", given] if given else [])]))
