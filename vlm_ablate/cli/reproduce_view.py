"""How `reproduce` says what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlm_ablate.launch.together import Account, Work

if TYPE_CHECKING:
    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.runs.view import Results


def plan_table(
    loaded: Sequence[LoadedExperiment], found: Mapping[str, Sequence[Results]], recorded: Mapping[str, int]
) -> Table:
    """A row for each table: its arms and runs, and how many are done.

    Args:
        found: what is on disk of its runs, but for those that are recorded elsewhere.
        recorded: how many these are.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("table", "what it varies", "arms", "runs", "done"):
        table.add_column(heading, justify="right" if heading in ("arms", "runs", "done") else "left", style=None)
    for each in loaded:
        results, elsewhere = found[each.experiment.name], recorded[each.experiment.name]
        runs, done = len(results) + elsewhere, sum(r.done for r in results) + elsewhere
        table.add_row(
            Text(each.experiment.name, style="cyan"), Text(each.experiment.title), str(len(each.arms)),
            str(runs), Text(str(done), style="green" if done == runs else ""),
        )  # fmt: skip
    return table


def sentences(of: Account) -> Iterable[Text]:
    """What is asked for, saved and left, one line each."""
    yield Text(f"asked for    {_told(of.asked)}")
    yield Text(f"shared       {_told(of.asked - of.shared)} less, because what two tables need is computed once")
    yield Text(f"left         {_told(of.left)}" if of.left.seconds else "left         nothing", style="bold")


def _told(work: Work) -> str:
    what = f"{work.runs:,} trainings, {work.steps:,} steps, {work.items:,} answers"
    return f"{what}, about {_hours(work.seconds)} of CPU time"


def _hours(seconds: float) -> str:
    """Estimates as people say them."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
