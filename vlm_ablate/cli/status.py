"""`vlm-ablate status`: what runs where and how far it is, what waits, and what ended badly."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_ablate.cli.console import HomeOption, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group, RenderableType

    from vlm_ablate.home import Home

WATCH_SECONDS = 2.0
MOST_ENDED = 10
"""Rows of what ended badly that are shown to people."""


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with everything that is known (with --watch: a line each time).")
    ] = False,
    hours: Annotated[
        float,
        typer.Option(
            "--hours", min=0, max=87_600, callback=finite, help="How far back failed and stopped runs are shown."
        ),
    ] = 24.0,
    home: HomeOption = None,
) -> None:
    """What is running where: its step, its age, its machine, its last sign of life. Reads the home only.

    Example: vlm-ablate status --watch --home /shared/outputs
    """
    from vlm_ablate.cli.home import open_home

    place = open_home(home)
    with suppress(KeyboardInterrupt):  # the way to end watching
        if as_json:
            _as_json(place, hours, watch)
        elif watch:
            _watch(place, hours)
        else:
            from vlm_ablate.cli.console import out

            out().print(_shown(place, hours))


def _as_json(home: Home, hours: float, watch: bool) -> None:
    import json

    while True:
        typer.echo(json.dumps(known(home, hours), ensure_ascii=False, indent=None if watch else 1))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _watch(home: Home, hours: float) -> None:
    from rich.live import Live

    from vlm_ablate.cli.console import out

    console = out()
    if not console.is_terminal:
        while True:
            console.print(_shown(home, hours))
            time.sleep(WATCH_SECONDS)
    with Live(_shown(home, hours), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_shown(home, hours), refresh=True)


def known(home: Home, hours: float) -> dict[str, list[dict[str, Any]]]:
    """Everything that is known: `running`, `waiting` (in an engine's queue) and `ended` (failed or stopped)."""
    from dataclasses import asdict

    from vlm_ablate.launch.handover import queued
    from vlm_ablate.runs.now import going, unfinished

    running = [
        asdict(each.live)
        | {"seconds": round(each.age, 1), "seconds_since_sign": round(each.since_sign, 1), "state": _state(each)}
        for each in going(home)
    ]
    waiting = [asdict(each) for each in queued(home)]
    return {"running": running, "waiting": waiting, "ended": [asdict(each) for each in unfinished(home, hours)]}


def _state(each: Any) -> str:
    return "lost" if each.lost else "silent" if each.silent else "alive"


def _shown(home: Home, hours: float) -> Group:
    """For people: a table of what runs, one of what waits, and lines on what ended badly."""
    from rich.console import Group
    from rich.text import Text

    found = known(home, hours)
    parts: list[RenderableType] = []
    if found["running"]:
        parts.append(_running(found["running"]))
    if found["waiting"]:
        parts.append(_waiting(found["waiting"]))
    if not parts:
        parts.append(Text(f"nothing runs in {home.root}"))
    for row in found["ended"][:MOST_ENDED]:
        style = "bold red" if row["status"] == "failed" else "yellow"
        line = Text.assemble((f"{row['status']:<8} ", style), row["name"], f"  {_age(row['ended_ms'] / 1000)} ago")
        parts.append(line.append(f"  {row['message'].splitlines()[0]}" if row["message"] else ""))
    if more := len(found["ended"]) - MOST_ENDED:
        parts += [Text(f"and {more} more; --json shows all", style="dim")] if more > 0 else []
    return Group(*parts)


def _running(rows: list[dict[str, Any]]) -> RenderableType:
    columns = ("run", "experiment", "doing", "step", "age", "machine", "launcher", "sign of life")
    return _table(columns, [_running_row(row) for row in rows], [row["state"] != "alive" for row in rows])


def _running_row(row: dict[str, Any]) -> tuple[str, ...]:
    doing = " ".join(filter(None, [row["doing"], row["stage"] if row["doing"] == "training" else row["detail"]]))
    step = f"{row['step']}/{row['total']}" if row["total"] else ""
    sign = f"{_seconds(row['seconds_since_sign'])} ago"
    state = {"alive": "", "silent": ", silent", "lost": ", gone: run it again to go on"}[row["state"]]
    machine, launcher = f"{row['host']} {row['pid']}", row["launcher"] or "-"
    return row["name"], row["experiment"], doing, step, _seconds(row["seconds"]), machine, launcher, sign + state


def _waiting(rows: list[dict[str, Any]]) -> RenderableType:
    cells = [(row["name"], row["experiment"], row["launcher"], row["host"], _age(row["since"])) for row in rows]
    return _table(("waits", "experiment", "launcher", "asked for on", "age"), cells, [False] * len(cells))


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], marked: Sequence[bool]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("step", "age", "launcher"), overflow="fold")
    for row, mark in zip(rows, marked, strict=True):
        table.add_row(*(Text(cell) for cell in row), style="yellow" if mark else "")
    return table


def _age(since: float) -> str:
    return _seconds(max(0.0, time.time() - since))


def _seconds(seconds: float) -> str:
    from vlm_ablate.cli.progress import duration

    return duration(seconds)
