"""`vlm-ablate sweep FILE`: search over an experiment's fields; and what was found, in words, pictures and files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vlm_ablate.cli.console import HomeOption, HubOption, TrackingOption
from vlm_ablate.cli.launchers import (
    AddressOption,
    GpusOption,
    LauncherOption,
    LauncherSetOption,
    NodesOption,
    ThreadsOption,
    Where,
    where_to,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.storages import RDBStorage

    from vlm_ablate.home import Home
    from vlm_ablate.launch.base import Placement
    from vlm_ablate.sweeps.loading import LoadedSweep
    from vlm_ablate.sweeps.results import StudyResult


class _RunsByDefault(TyperGroup):
    """A group in which `sweep FILE` is short for `sweep run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Put `run` before what is no command's name, nor nearly one."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h") and not self._mistyped(args[0]):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def _mistyped(self, word: str) -> bool:
        """Whether a word is nearly the name of a command, and no sweep has it."""
        from difflib import get_close_matches

        if word.startswith("-") or not get_close_matches(word, self.commands):
            return False
        from vlm_ablate.errors import UnknownNameError
        from vlm_ablate.sweeps.loading import find_sweep

        try:
            find_sweep(word)
        except UnknownNameError:
            return True
        return False


app = typer.Typer(
    cls=_RunsByDefault,
    help="Search over an experiment's fields on the tune split; `sweep FILE` is short for `sweep run FILE`.",
    no_args_is_help=True,
)

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file, or its name below experiments/sweeps.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URI",
        envvar="VLM_ABLATE_STUDIES",
        help="Database of studies: postgresql://USER@HOST/DATABASE for many machines. Default: SQLite under --home.",
    ),
]


@app.command()
def run(
    file: SweepFile,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=4_096,
            help="Trials at a time. Default: as many as this machine has GPUs or cores for.",
        ),
    ] = None,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "local",
    gpus_per_run: GpusOption = None,
    nodes_per_run: NodesOption = None,
    ray_address: AddressOption = None,
    launcher_sets: LauncherSetOption = None,
    storage: StorageOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Run trials until the budget is spent. The same command in other terminals and machines works on the same study.

    What was interrupted goes on with the same command; finished trials are not repeated.

    Example: vlm-ablate sweep t03_learning_rate
    """
    from vlm_ablate.cli.console import out, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.sweeps.loading import load_sweep
    from vlm_ablate.sweeps.storage import check_address, database_errors, default_storage

    set_hub_access(allow_hub)
    loaded = load_sweep(file)
    where = where_to(
        launcher, jobs=_jobs_for(launcher, jobs), threads=threads, gpus=gpus_per_run, nodes=nodes_per_run,
        ray_address=ray_address, sets=launcher_sets or [],
    )  # fmt: skip
    warn(loaded.base.warnings)
    place = open_home(home).prepare()
    uri = storage or default_storage(place, loaded.sweep.name)
    check_address(uri)
    _look_over(loaded, place)
    with database_errors(uri):
        _work(loaded, place, uri, tracking_uri or place.tracking_uri, jobs, where)
        results = _results(loaded, place, uri)
        _show(loaded, results, 5)
        _publish(loaded, results, tracking_uri or place.tracking_uri)
    asked = (("show",), ("plots",), ("apply", "OUT.yaml"))
    out().print("more:", soft_wrap=True)
    for action, *rest in asked:
        out().print(f"  {sweep_command(action, file, *rest, home=home, storage=storage)}", soft_wrap=True, markup=False)


def sweep_command(action: str, file: Path, *rest: str, home: str | None, storage: str | None) -> str:
    """The command that does more with the sweep of a file, in the home and the database that it ran in."""
    import os

    from vlm_ablate.masking import masked

    parts = ["vlm-ablate", "sweep", action, str(file), *rest, *(["--home", home] if home else [])]
    given = storage if storage != os.environ.get("VLM_ABLATE_STUDIES") else None
    return masked(shlex.join([*parts, *(["--storage", given] if given else [])]))


def _jobs_for(launcher: str, jobs: int | None) -> int | None:
    """The number of trials at a time as far as the launcher has such a setting of its own."""
    from vlm_ablate.registry import launchers

    return jobs if "jobs" in launchers[launcher].config.model_fields else None


def _look_over(loaded: LoadedSweep, home: Home) -> None:
    """Say what is wrong with the material before the first trial.

    Raises:
        DataError: with all problems.
    """
    from vlm_ablate.cli.console import err, warn
    from vlm_ablate.runs.results import find_results

    first = [spec for study in loaded.studies for values, _ in study.first_trials()
             for spec in loaded.specs(values, study.arms)]  # fmt: skip
    missing = {spec.arm: spec.config for spec in first if not find_results(spec, home).done}
    if not missing:
        return
    with err().status("opening sources and benchmarks"):
        from vlm_ablate.evaluation.material import look_over

        material = look_over(missing)
    warn(material.warnings())
    if error := material.error():
        raise error


def _work(loaded: LoadedSweep, home: Home, uri: str, tracking_uri: str, jobs: int | None, where: Where) -> None:
    """Work on the studies until their budget is spent.

    Raises:
        SweepInterrupted: after Ctrl-C.
    """
    from vlm_ablate.cli.console import counted, out
    from vlm_ablate.cli.sweep_view import SweepDisplay
    from vlm_ablate.launch.campaign import Campaign, sigterm_as_interrupt
    from vlm_ablate.registry import launchers
    from vlm_ablate.sweeps.runner import SweepInterrupted, SweepRunner
    from vlm_ablate.sweeps.trials import open_studies
    from vlm_ablate.tracking.summary import record_sweep

    studies, at_a_time = open_studies(loaded, home, uri), jobs or places(where.placement, loaded)
    out().print(_headline(loaded, home), soft_wrap=True)
    if all(study.spent(study.all()) and not study.unfinished() for study in studies):
        return
    with SweepDisplay(loaded, studies, out()) as display:
        runner = SweepRunner(
            loaded, studies, at_a_time, on_event=display, on_end=display.ended_trial, placement=where.placement
        )
        campaign = Campaign(launchers.build(where.config), home, runner.hear, tracking_uri=tracking_uri)
        try:
            with sigterm_as_interrupt(), campaign:
                runner.parent = record_sweep(tracking_uri, loaded.tracked_as, **_told(loaded))
                runner.work(campaign)
        except KeyboardInterrupt:
            killed = f"; {counted(campaign.killed, 'run')} did not stop in time" if campaign.killed else ""
            raise SweepInterrupted(
                f"interrupted: open trials continue from their checkpoints{killed}",
                hint="the same command continues from here",
            ) from None


def places(placement: Placement, loaded: LoadedSweep) -> int:
    """Trials at a time, where nobody says how many: as many as this machine has GPUs for, or without any, cores."""
    from vlm_ablate.launch.devices import cores, gpus

    most = max(arm.config.execution.devices or 1 for arm in loaded.base.arms.values())
    each = most if placement.devices is None else placement.devices or 1
    return max(1, (len(gpus()) or cores()) // each)


def _headline(loaded: LoadedSweep, home: Home) -> str:
    from vlm_ablate.cli.console import counted

    sweep = loaded.sweep
    studies = f", {counted(len(loaded.studies), 'study').replace('studys', 'studies')}" * (len(loaded.studies) > 1)
    limits = sweep.budget.model_dump(exclude_none=True)
    budget = ", ".join(f"{value:g} {name}" for name, value in limits.items()) or "all of the grid"
    return (
        f"{sweep.name}  {counted(len(sweep.space), 'field')} of {loaded.base.experiment.name} at scale "
        f"{sweep.experiment.scale!r}{studies}, {sweep.sampler.name}, {budget}, home {home.root}"
    )


def _results(loaded: LoadedSweep, home: Home, uri: str) -> list[StudyResult]:
    """All studies of the sweep as they are now.

    Raises:
        StorageError: nothing was searched yet, or the database does not answer.
        StudyDiffers: the file was changed since, and tells of another search.
    """
    from vlm_ablate.errors import StorageError
    from vlm_ablate.sweeps.results import result_of
    from vlm_ablate.sweeps.storage import check_study, open_storage, sweep_folder

    database = open_storage(uri, sweep_folder(home, loaded.sweep.name), create=False)
    found = []
    for plan in loaded.studies:
        study = _study(database, plan.name)
        if study is not None:
            check_study(study, loaded, plan)
            found.append(result_of(study, loaded.sweep.objective))
    if not found:
        raise StorageError(f"there is no study {loaded.sweep.name!r} yet", hint="`vlm-ablate sweep FILE` begins one")
    return found


def _study(database: RDBStorage, name: str) -> Any:
    import optuna

    try:
        return optuna.load_study(study_name=name, storage=database)
    except KeyError:
        return None


def _show(loaded: LoadedSweep, results: Sequence[StudyResult], top: int) -> None:
    from vlm_ablate.cli.console import out
    from vlm_ablate.cli.sweep_view import study_view

    for result in results:
        out().print(*study_view(result, loaded, top), sep="\n")


def _publish(loaded: LoadedSweep, results: Sequence[StudyResult], tracking_uri: str) -> None:
    """Put pictures and the best trials on the sweep's run in the store. A failure is a warning."""
    import tempfile

    from vlm_ablate.cli.console import warn
    from vlm_ablate.cli.sweep_view import study_markdown
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.tracking.summary import record_sweep

    text = "\n\n".join(study_markdown(result, loaded) for result in results)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = _write_plots(results, Path(folder))
            record_sweep(tracking_uri, loaded.tracked_as, files, markdown=text, finished=True, **_told(loaded))
    except VlmAblateError as error:
        warn([f"the sweep was not put on the tracking store: {error.message}"])


def _told(loaded: LoadedSweep) -> dict[str, Any]:
    """What the sweep's run in the store says of it."""
    sweep = loaded.sweep
    arm = ["arm"] if len(sweep.experiment.arms) > 1 else []
    return {"scale": sweep.experiment.scale, "searched": [*arm, *sweep.space], "objective": sweep.objective.score}


def _write_plots(results: Sequence[StudyResult], folder: Path) -> list[Path]:
    from vlm_ablate.storage import write_atomically
    from vlm_ablate.sweeps.plots import plots

    written = []
    for result in results:
        if not result.finished:
            continue
        prefix = f"{result.name.partition('/')[2]}_" if "/" in result.name else ""
        for name, picture in plots(result).items():
            path = folder / f"{prefix}{name}.png"
            write_atomically(path.absolute(), picture)
            written.append(path)
    return written


@app.command()
def show(
    file: SweepFile,
    top: Annotated[int, typer.Option("--top", min=1, max=100_000, help="Trials to list.")] = 10,
    storage: StorageOption = None,
    home: HomeOption = None,
) -> None:
    """The best trials with intervals over seeds, what was pruned, which fields mattered, and what it cost.

    Example: vlm-ablate sweep show t03_learning_rate
    """
    loaded, _, results = _known(file, storage, home)
    _show(loaded, results, top)


def _known(file: Path, storage: str | None, home: str | None) -> tuple[LoadedSweep, Home, list[StudyResult]]:
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.sweeps.loading import load_sweep
    from vlm_ablate.sweeps.storage import database_errors, default_storage

    loaded, place = load_sweep(file), open_home(home)
    uri = storage or default_storage(place, loaded.sweep.name)
    with database_errors(uri):
        return loaded, place, _results(loaded, place, uri)


@app.command("plots")
def plots_(
    file: SweepFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the PNG files go.")] = Path("."),
    storage: StorageOption = None,
    home: HomeOption = None,
) -> None:
    """Draw the history, the score over each field, what mattered, and score against cost, as PNG.

    Example: vlm-ablate sweep plots t03_learning_rate -o plots
    """
    from vlm_ablate.errors import VlmAblateError

    loaded, _, results = _known(file, storage, home)
    out.mkdir(parents=True, exist_ok=True)
    written = _write_plots(results, out)
    if not written:
        raise VlmAblateError(f"no trial of {loaded.sweep.name!r} is finished: there is nothing to draw")
    for path in written:
        typer.echo(f"wrote {path}", err=True)


@app.command()
def apply(
    file: SweepFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Experiment file to write.")],
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Number of a trial instead of the best.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    storage: StorageOption = None,
    home: HomeOption = None,
) -> None:
    """Write the winner as an experiment file. Scoring it on the report split trains nothing again.

    The file names sweep, trial and revision; its values hold at the scale of the sweep, and `table` marks the arm.

    Example: vlm-ablate sweep apply t03_learning_rate tuned.yaml
    """
    from vlm_ablate.cli.console import warn
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.config.loading import arms_text
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.storage import write_atomically
    from vlm_ablate.sweeps.apply import experiment_text, winners

    loaded, place, results = _known(file, storage, home)
    if out.exists() and not force:
        raise VlmAblateError(f"{out} is there already", hint="--force replaces it")
    chosen = winners(results, trial)
    write_atomically(out.absolute(), experiment_text(loaded, chosen, out, place))
    scale = loaded.sweep.experiment.scale
    load_experiment(out, scale=scale)
    if len({result.tried for result, _ in chosen.values()}) > 1:
        told = ", ".join(f"{arm} {result.tried}" for arm, (result, _) in chosen.items())
        warn([f"the arms were not tuned alike: of trials they had {told}"])
    typer.echo(f"wrote {out}", err=True)
    parts = ["vlm-ablate", "run", str(out), "--scale", scale, "--arms", arms_text([*chosen])]
    command = shlex.join([*parts, *(["--home", home] if home else [])])
    typer.echo(f"score it on the report split: {command}", err=True)


@app.command()
def plan(file: SweepFile, home: HomeOption = None, allow_hub: HubOption = False) -> None:
    """What the sweep costs, before it runs: trials, operations, parameters and memory over the ends of its space.

    Example: vlm-ablate sweep plan t03_learning_rate
    """
    from vlm_ablate.cli.console import err, out, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.cli.sweep_view import plan_view
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.sweeps.loading import load_sweep

    set_hub_access(allow_hub)
    loaded, place = load_sweep(file), open_home(home)
    with err().status("planning on the meta device"):
        lines = plan_view(loaded, place)
    out().print(*lines, sep="\n")
    warn(loaded.base.warnings)
