"""What the commands share: consoles, errors as messages, and the options that several of them take."""

from __future__ import annotations

import gc
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.errors import ConfigError, VlmAblateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

PIPED_WIDTH = 160
"""Columns of what is written to a file or a pipe."""
MOST_SEEDS = 1_000
LARGEST_SEED = 2**32 - 1

ScaleOption = Annotated[
    str, typer.Option("--scale", "-s", metavar="NAME", help="Scale: a name (`list scales`) or a file.")
]
ArmsOption = Annotated[
    str | None,
    typer.Option(
        "--arms",
        metavar="NAME,...",
        help="Only these arms, with commas between (a name with a comma in double quotes); --set reaches no other.",
    ),
]
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="N,...", help="Seeds instead of the file's, e.g. 0,1,2 or 0-4.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field in every arm that is asked for, e.g. 'stages.*.steps=50'. Repeatable; values are YAML.",
    ),
]
HomeOption = Annotated[
    str | None,
    typer.Option("--home", metavar="FOLDER", help="Folder of runs and records. Default: $VLM_ABLATE_HOME, or outputs."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        help="Tracking store. Default: SQLite under --home.",
    ),
]
PluginsOption = Annotated[
    bool, typer.Option("--allow-plugins", help="Let code run that the folder of a checkpoint or run names.")
]
HubOption = Annotated[bool, typer.Option("--allow-hub", help="Let models and data sets be downloaded from the hub.")]


@contextmanager
def few_collections() -> Iterator[None]:
    """Look for unreachable cycles of objects more rarely: for commands that build or read very much, and then end.

    Python looks whenever 700 objects are new, all of them every so often, and here finds nothing: that is a fifth of
    the time of `plan`, a third of that of a `table` of a thousand runs.
    """
    before = gc.get_threshold()
    gc.set_threshold(500_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def out() -> Console:
    """Console of results (stdout). What is printed is shown as it is: names may hold brackets."""
    from rich.console import Console

    from vlm_ablate.cli.streams import READER_LEFT

    class Results(Console):
        def on_broken_pipe(self) -> None:
            raise SystemExit(READER_LEFT)

    console = Results(highlight=False, markup=False)
    return console if console.is_terminal else Results(highlight=False, markup=False, width=PIPED_WIDTH)


def err() -> Console:
    """Console of messages (stderr)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def print_error(error: VlmAblateError) -> None:
    """One message on stderr: problems of files grouped by file and line, or the message and its hint."""
    from rich.padding import Padding
    from rich.text import Text

    console = err()
    # On a terminal wrapped between words; in a file a message is a line.
    whole = not console.is_terminal
    if isinstance(error, ConfigError):
        count = len(error.problems)
        console.print(Text(f"{count} problem{'s' if count > 1 else ''} found", style="bold red"))
        for problem in error.problems:
            console.print(Text.assemble((problem.file, "cyan"), soft(problem.path)), soft_wrap=True)
            near = f"  did you mean {problem.nearest!r}?" if problem.nearest else ""
            message = Text.assemble(problem.message, (near, "green"))
            console.print(Padding(message, (0, 0, 0, 4)) if not whole else Text("    ") + message, soft_wrap=whole)
    else:
        console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=whole)
    if error.hint:
        # A hint may be a command to copy, which a line break would split.
        console.print(Text.assemble(("hint: ", "green"), error.hint), soft_wrap=True)


def soft(path: str) -> tuple[str, str]:
    """A dotted path as styled text after a location, or nothing."""
    return (f"  {path}", "bold") if path else ("", "")


def warn(messages: list[str]) -> None:
    """Warnings on stderr, one each."""
    from rich.text import Text

    console = err()
    for message in messages:
        console.print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=not console.is_terminal)


def counted(number: int, noun: str) -> str:
    """`1 arm`, `2 arms`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def some_of(words: Sequence[str], most: int) -> str:
    """The first of them, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def arm_list(text: str | None) -> list[str] | None:
    """`"a, b"` -> `["a", "b"]`, `'"a, b"'` -> `["a, b"]`; None stays None (all arms).

    Raises:
        VlmAblateError: nothing is named.
    """
    import csv

    if text is None:
        return None
    try:
        names = [name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row if name.strip()]
    except csv.Error as error:
        raise usage_error(
            f"--arms {_short(text)!r} cannot be read: {error}", "write names separated by commas"
        ) from error
    return names or listed("--arms", "", "names separated by commas")


def listed(option: str, text: str, example: str) -> list[str]:
    """What an option lists, with commas between.

    Raises:
        VlmAblateError: nothing is named.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise usage_error(f"{option} {text!r} names nothing", f"write {example}, or leave it out for all")
    return parts


def usage_error(message: str, hint: str | None = None) -> VlmAblateError:
    """Something that was asked wrongly: exit status 2."""
    error = VlmAblateError(message, hint=hint)
    error.exit_code = 2
    return error


def check_lines(given: Mapping[str, str | None]) -> None:
    """What options say that goes into files: text of one line.

    Raises:
        VlmAblateError: an option holds a line break, a control character or what is no character.
    """
    for option, text in given.items():
        if text is not None and not text.isprintable():
            raise usage_error(f"{option} {text[:60]!r} is no line of text")


def print_runs(runs: Iterable[tuple[str, int, str]]) -> None:
    """Say by which keys `export`, `generate` and `explain` know runs, a line an arm; of many seeds the first ones.

    Args:
        runs: arm, seed and id of each.
    """
    from rich.text import Text

    by_arm: dict[str, list[str]] = {}
    for arm, seed, id in runs:
        by_arm.setdefault(arm, []).append(f"seed {seed} {id[:8]}")
    for arm, keys in by_arm.items():
        err().print(Text(f"{arm}: {some_of(keys, 10)}", style="dim"), soft_wrap=True)


def seed_list(text: str | None) -> list[int] | None:
    """`"0,1,5-7"` or `"0,1,5..7"` -> `[0, 1, 5, 6, 7]`; None stays None (the file's own).

    Raises:
        VlmAblateError: not whole numbers, or none at all.
    """
    if text is None:
        return None
    seeds: list[int] = []
    for part in listed("--seeds", text, "0,1,2 or 0-4"):
        first, dash, last = part.replace("..", "-").partition("-")
        ends = [_seed(end) for end in (first, last if dash else first)]
        if None in ends or ends[0] > ends[1]:  # type: ignore[operator]  # None is looked for first
            raise usage_error(f"--seeds {_short(text)}: {_short(part)!r} is no seed", "write 0,1,2 or 0-4")
        found = range(ends[0] or 0, (ends[1] or 0) + 1)
        if len(seeds) + len(found) > MOST_SEEDS:
            raise usage_error(f"--seeds {_short(text)}: more than {MOST_SEEDS:,} seeds", "write 0,1,2 or 0-4")
        seeds += found
    return seeds


def _seed(text: str) -> int | None:
    """A seed, or None: no whole number, or larger than random generators take."""
    return int(text) if re.fullmatch("[0-9]{1,10}", text) and int(text) <= LARGEST_SEED else None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def finite(value: float | None) -> float | None:
    """Callback of options that are numbers without an upper end: typer takes `inf` for one.

    Raises:
        typer.BadParameter: it is no finite number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value
