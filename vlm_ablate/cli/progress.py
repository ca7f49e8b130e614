"""What a person sees while runs go: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from vlm_ablate.cli.lines import SteadyLines
from vlm_ablate.events import (
    Checkpointed,
    EvaluationProgress,
    Event,
    Notice,
    Preparing,
    RunFinished,
    RunStarted,
    StageStarted,
    StepDone,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from vlm_ablate.runs.spec import RunSpec

STYLE = {"finished": "green", "diverged": "yellow", "failed": "bold red", "skipped": "yellow"}


PATIENCE = 2.0
"""Seconds after which a preparation is worth a line where there are no bars."""
INTERVAL = 30.0
"""Seconds between two lines on one run where there are no bars."""


class RunDisplay:
    """Listens to the events of a launch: a bar for the whole experiment, one for each running run, a line for each end.

    Use as a context manager and as the launcher's `on_event`.
    """

    def __init__(self, specs: Sequence[RunSpec], console: Console) -> None:
        several = len({spec.experiment for spec in specs}) > 1
        self._names = {spec.id: f"{spec.experiment} " * several + spec.run_name for spec in specs}
        self._console = console
        self._live = console.is_terminal
        self._progress = _bars(console) if self._live else None
        self._tasks: dict[str, TaskID] = {}
        self._stage: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._total: TaskID | None = None
        self._lines = SteadyLines(self._print)
        self.ended: dict[str, RunFinished] = {}

    def __enter__(self) -> RunDisplay:
        if self._progress:
            self._progress.start()
            self._total = self._progress.add_task("all runs", total=len(self._names), info="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.flush()
        if self._progress:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        self._lines.tick()
        match event:
            case RunStarted():
                self._started(event)
            case Preparing():
                self._preparing(event)
            case StageStarted():
                self._stage[event.run] = f"{event.stage} " if event.stages > 1 else ""
            case StepDone():
                info = f"{self._stage.get(event.run, '')}loss {event.loss:.3f}  {_rate(event.tokens_per_s)} tokens/s"
                left = "" if event.seconds_left is None else f"  {duration(event.seconds_left)} left"
                self._update(event.run, event.step, event.steps, info + left)
            case EvaluationProgress():
                what = f"{'blind ' if event.blind else ''}{event.column}"
                self._update(event.run, event.done, event.total, f"answering {what}  {event.done}/{event.total}")
            case RunFinished():
                self._finished(event)
            case Notice():
                text = event.message if event.level == "info" else f"warning: {event.message}"
                self._line(event.level, text, "dim")
            case Checkpointed():
                pass

    def _started(self, event: RunStarted) -> None:
        name = self._names.get(event.run, event.name)
        resumed = f", continuing from step {event.resumed_step}" if event.resumed_step else ""
        if self._progress:
            if self._total is not None:
                self._progress.update(self._total, info="")
            old = self._tasks.pop(event.run, None)
            if old is not None:
                self._progress.remove_task(old)
            self._tasks[event.run] = self._progress.add_task(
                name, total=event.steps, completed=event.resumed_step, info=f"starting{resumed}"
            )
        else:
            self._line("started", f"started   {name}  ({event.steps} steps{resumed})")

    def _preparing(self, event: Preparing) -> None:
        name = self._names.get(event.run, event.run)
        if self._progress:
            if event.run not in self._tasks:
                self._tasks[event.run] = self._progress.add_task(name, total=event.total, info="")
            self._update(event.run, event.done, event.total, event.what)
        elif time.monotonic() - self._heard.setdefault(event.what, time.monotonic()) > PATIENCE:
            self._heard[event.what] = math.inf
            self._line("preparing", f"preparing {name}: {event.what}")

    def _update(self, run: str, done: int, total: int, info: str) -> None:
        if self._progress and run in self._tasks:
            self._progress.update(self._tasks[run], completed=done, total=total, info=info)
        elif not self._progress and time.monotonic() - self._told.setdefault(run, time.monotonic()) > INTERVAL:
            self._told[run] = time.monotonic()
            self._line("going", f"          {self._names.get(run, run)}  {done}/{total}  {info}", "dim")

    def _finished(self, event: RunFinished) -> None:
        self.ended[event.run] = event
        task = self._tasks.pop(event.run, None)
        if self._progress and task is not None:
            self._progress.remove_task(task)
        name = self._names.get(event.run, event.run)
        score = "" if event.mean is None else f"  mean {event.mean:.1f}"
        took = "  (recorded earlier)" if event.reused else f"  in {duration(event.seconds)}"
        why = f"  {event.message}" if event.message else ""
        kind = "recorded" if event.reused and event.status == "finished" else event.status
        self._line(kind, f"{event.status:<9} {name}{score}{took}{why}", STYLE.get(event.status, ""))
        if self._progress and self._total is not None:
            self._progress.update(self._total, completed=len(self.ended))

    def _line(self, kind: str, text: str, style: str = "") -> None:
        """On a terminal at once, above the bars."""
        if self._progress:
            self._print(text, style)
        else:
            self._lines.add(kind, text, style)

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        (self._progress.console if self._progress else self._console).print(Text(text, style=style), soft_wrap=True)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    info = TextColumn("{task.fields[info]}", markup=False)
    return Progress(*columns, info, console=console, transient=True, refresh_per_second=4)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rate(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
