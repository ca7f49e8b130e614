"""The options that say where runs go, for every command that runs something; and running specs there, with progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from vlm_ablate.home import Home
    from vlm_ablate.launch.base import Placement
    from vlm_ablate.launch.seats import Seat
    from vlm_ablate.runs.outcome import RunOutcome
    from vlm_ablate.runs.spec import RunSpec

LauncherOption = Annotated[
    str,
    typer.Option("--launcher", metavar="NAME", help="Where runs go: local, ray, slurm; `vlm-ablate list launchers`."),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        max=4_096,
        help="Runs at a time. Default: one a GPU, or one a core; on a cluster, its room.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=4_096, help="Threads of each run. Runs that share cores want one.")
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--devices",
        "--gpus-per-run",
        metavar="N",
        min=0,
        max=4_096,
        help="Ranks of each run that share its batches, a GPU each; on a machine without GPUs, a process each. "
        "Default: execution.devices, else one. 0: one, without a GPU.",
    ),
]
NodesOption = Annotated[
    int | None, typer.Option("--nodes", "--nodes-per-run", metavar="N", min=1, max=4_096, help="Machines of each run.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Ray cluster (or auto, ray://HOST:10001). Default: one is started here.",
    ),
]
LauncherSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--launcher-set",
        metavar="FIELD=VALUE",
        help="Set a field of the launcher, e.g. partition=gpu. Repeatable; values are YAML.",
    ),
]


@dataclass(frozen=True)
class Where:
    """Which launcher runs go to, and what each takes there."""

    config: BaseModel
    """Of a registered launcher."""
    placement: Placement
    seat: Seat | None = None
    """Of this process among others that were started together."""


def where_to(
    launcher: str = "local",
    *,
    jobs: int | None = None,
    threads: int = 1,
    gpus: int | None = None,
    nodes: int | None = None,
    ray_address: str | None = None,
    sets: Sequence[str] = (),
    together: bool = False,
) -> Where:
    """What the options say, before anything is started.

    Args:
        launcher: registered name.
        jobs: runs at a time; None: as many as the launcher takes.
        threads: of each run. The last digits of a result depend on it.
        gpus: ranks of each run on a machine, with a GPU each; None: as its execution section says.
        nodes: of each run.
        ray_address: of a cluster.
        sets: `FIELD=VALUE` of the launcher's configuration.
        together: whether the command may be one of several processes that were started together, by torchrun for one.

    Raises:
        VlmAblateError: it is one of them, and may not, or the options ask for other ranks than were started.
        ConfigError: the launcher has no such setting, or does not take its value.
        UnknownNameError: there is none of that name.
    """
    from vlm_ablate.errors import ConfigError, Problem
    from vlm_ablate.launch.base import Placement
    from vlm_ablate.launch.seats import Seat

    seat = Seat.of_environment()
    if seat is not None:
        _check_seat(seat, launcher, jobs, gpus, nodes, together=together)
        jobs, gpus, nodes = 1, seat.per_machine, seat.machines
    given: dict[str, tuple[str, Any]] = {}
    if jobs is not None:
        given["jobs"] = ("--jobs", jobs)
    if ray_address is not None:
        given["address"] = ("--ray-address", ray_address)
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError([Problem("--launcher-set", "", f"{text[:60]!r} is not FIELD=VALUE, like partition=gpu")])
        given[name.strip()] = ("--launcher-set", _value(value))
    return Where(_config(launcher, given, threads), Placement(gpus, nodes), seat)


def _check_seat(
    seat: Seat, launcher: str, jobs: int | None, gpus: int | None, nodes: int | None, *, together: bool
) -> None:
    from vlm_ablate.cli.console import usage_error

    started = f"{seat.count} processes were started together (WORLD_SIZE), {seat.per_machine} on each machine"
    if not together:
        raise usage_error(f"{started}, and this command takes one", hint="torchrun starts `vlm-ablate run` only")
    wrong = [
        (option, value)
        for option, value, own in (
            ("--launcher", launcher, "local"),
            ("--jobs", jobs, 1),
            ("--devices", gpus, seat.per_machine),
            ("--nodes", nodes, seat.machines),
        )
        if value is not None and value != own
    ]
    if wrong:
        told = ", ".join(f"{option} {value}" for option, value in wrong)
        raise usage_error(f"{started}: {told} cannot be had", hint=f"leave {wrong[0][0]} out")


def _value(text: str) -> Any:
    import yaml

    from vlm_ablate.errors import ConfigError, Problem

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem("--launcher-set", "", f"{text[:60]!r} is no YAML: {error}")]) from error


def _config(launcher: str, given: dict[str, tuple[str, Any]], threads: int) -> BaseModel:
    from pydantic import ValidationError

    from vlm_ablate.errors import ConfigError, Problem, nearest
    from vlm_ablate.registry import launchers

    kind = launchers[launcher].config
    known = [name for name in kind.model_fields if name != "name"]
    problems = [
        Problem(option, "" if option != "--launcher-set" else name, f"the launcher {launcher!r} takes no {_what(name)}",
                nearest(name, known) if option == "--launcher-set" else None)
        for name, (option, _) in given.items() if name not in known
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    values = {name: value for name, (_, value) in given.items()} | ({"threads": threads} if "threads" in known else {})
    try:
        return kind(**{"name": launcher, **values})
    except ValidationError as error:
        found = [(str(e["loc"][0]) if e["loc"] else "", str(e["msg"])) for e in error.errors()]
        raise ConfigError(
            [Problem(given.get(at, ("--launcher", 0))[0], at or launcher, m) for at, m in found]
        ) from error


def _what(name: str) -> str:
    return {"jobs": "number of runs at a time", "address": "address of a Ray cluster"}.get(name, f"setting {name!r}")


def launch(specs: Sequence[RunSpec], home: Home, tracking_uri: str, where: Where) -> list[RunOutcome]:
    """Run the specs and show their progress.

    Raises:
        LaunchInterrupted: after Ctrl-C, saying how to continue.
        VlmAblateError: the launcher cannot run anything, or not what each run asks for.
    """
    import sys

    from vlm_ablate.cli.console import out
    from vlm_ablate.cli.progress import RunDisplay
    from vlm_ablate.launch.base import LaunchInterrupted
    from vlm_ablate.launch.campaign import Campaign
    from vlm_ablate.registry import launchers

    with RunDisplay(specs, out()) as display:
        try:
            with Campaign(launchers.build(where.config), home, display, tracking_uri=tracking_uri) as campaign:
                return campaign.run(specs, where.placement)
        except LaunchInterrupted as stop:
            which = "the same command" if "--rerun" not in sys.argv else "the command without --rerun"
            stop.hint = f"{which} continues from here: {this_command()}"
            raise


def this_command() -> str:
    """The command line of this process, to copy, as what goes on where it stopped: `--rerun` would begin anew."""
    import shlex
    import sys

    from vlm_ablate.masking import masked

    return masked(shlex.join(["vlm-ablate", *(word for word in sys.argv[1:] if word != "--rerun")]))
