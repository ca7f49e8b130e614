"""`vlm-ablate home ...`: where the commands look for results, and those of earlier versions taken over."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlm_ablate.home import Home
    from vlm_ablate.runs.migrate import Migrated

app = typer.Typer(help="The folder of runs and records.", no_args_is_help=True)


_commands: list[tuple[ExitStack, Home]] = []
"""Of each command in progress: what ends with it, and the home without its option."""


def open_home(folder: str | None) -> Home:
    """The home named on the command line, or the default one. Nothing is created.

    Until the command ends it is the default one: fetched material and caches are there, too, for this process and those
    that it starts.
    """
    from vlm_ablate.home import Home

    place = Home.at(folder)
    if folder and _commands:
        _commands[-1][0].enter_context(place.as_default())
    return place


@contextmanager
def own_home() -> Iterator[None]:
    """What a command within this block says of the home ends with it."""
    from vlm_ablate.home import Home

    with ExitStack() as ends:
        _commands.append((ends, Home.default()))
        ends.callback(_commands.pop)
        yield


def home_words(home: Home) -> list[str]:
    """The option that names a home in a command to copy; none for the one that commands take without it."""
    from vlm_ablate.home import Home

    usual = _commands[-1][1] if _commands else Home.default()
    return [] if home == usual else ["--home", str(home.root)]


def take_over_earlier(home: Home) -> None:
    """Bring runs of version 0.1 under today's keys before anything is trained again, and say so on stderr."""
    from vlm_ablate.runs.folder import folders_of_version_01

    if not folders_of_version_01(home):
        return
    from vlm_ablate.cli.console import err, warn
    from vlm_ablate.runs.migrate import migrate_home

    with err().status("taking over runs of version 0.1"):
        done = migrate_home(home)
    warn([f"a run of version 0.1 was taken over: {m.name}: {m.told}" for m in done if m.spec is not None])
    warn([f"a run of version 0.1 is not among these: {m.name}: {m.told}" for m in done if m.held])


@app.callback()
def home_commands() -> None:
    """The folder of runs and records."""


@app.command()
def migrate(
    records: Annotated[
        list[Path] | None,
        typer.Option(
            "--records", metavar="FILE", help="Records files to rewrite, instead of the home."
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Take over runs of version 0.1 under today's keys. Nothing is trained again; says what it did.

    Example: vlm-ablate home migrate --home outputs
    """
    from vlm_ablate.cli.console import err, out
    from vlm_ablate.runs.migrate import migrate_home
    from vlm_ablate.runs.migrate_records import migrate_records

    done: list[Migrated] = []
    for file in records or ():
        done += migrate_records(file)
    if not records:
        with err().status("reading runs of version 0.1") as status:
            done += migrate_home(open_home(home), status.update)
    _tell(done)
    taken = sum(m.spec is not None for m in done)
    out().print(
        f"{taken} of {len(done)} runs taken over, none trained again" if done else "nothing of version 0.1"
    )


@app.command("import")
def import_(
    records: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Records files, as `table --out FOLDER` writes.")
    ],
    home: HomeOption = None,
) -> None:
    """Take the runs of records files over into this home: scores and curves, so that `run` and `table` know them.

    There are no weights in a records file: what needs them (`export`, `generate`, a further benchmark) trains again.

    Example: vlm-ablate home import records.json --home shown
    """
    from vlm_ablate.cli.console import out
    from vlm_ablate.runs.migrate_records import import_records
    from vlm_ablate.tracking.record_file import load_records

    place = open_home(home)
    for file in records:
        load_records(file)  # one that cannot be read is told before anything is written
    place.prepare()
    done = [each for file in records for each in import_records(file, place)]
    _tell(done)
    out().print(f"{sum(m.spec is not None for m in done)} runs taken over into {place.root}")


@app.command()
def features(
    clear: Annotated[bool, typer.Option("--clear", help="Remove it; what runs need of it is computed again.")] = False,
    home: HomeOption = None,
) -> None:
    """How much of the cache the output of frozen encoders takes (see execution.features), and answers that arms share.

    Example: vlm-ablate home features --clear
    """
    from vlm_ablate.cli.console import counted, out
    from vlm_ablate.models.feature_store import answers_folder, features_folder, make_room, store_size

    opened = open_home(home)
    for root, kind in ((features_folder(opened), "encoder"), (answers_folder(opened), "language model")):
        found = store_size(root)
        told = f"{found.bytes / 2**20:,.1f} MiB of {counted(found.encoders, kind)} in {root}"
        if clear:
            told += f"; {make_room(root, 0) / 2**20:,.1f} MiB removed"
        out().print(told, soft_wrap=True)


def _tell(done: list[Migrated]) -> None:
    from vlm_ablate.cli.console import out

    for each in done:
        out().print(f"{each.old}  {each.name}: {each.told}", soft_wrap=True)
