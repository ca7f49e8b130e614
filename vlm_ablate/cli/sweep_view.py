"""What a person sees of a sweep: its progress, its trials, its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vlm_ablate.cli.console import counted, some_of
from vlm_ablate.cli.progress import STYLE, RunDisplay, duration
from vlm_ablate.events import Event, RunFinished

if TYPE_CHECKING:
    from rich.console import Console

    from vlm_ablate.home import Home
    from vlm_ablate.sweeps.cost import Costs
    from vlm_ablate.sweeps.loading import LoadedSweep, StudyPlan
    from vlm_ablate.sweeps.results import StudyResult, TrialRecord
    from vlm_ablate.sweeps.trials import OpenTrial, StudyTrials


class SweepDisplay(RunDisplay):
    """Bars for the runs of trials, and a line for each trial that ends."""

    def __init__(self, loaded: LoadedSweep, studies: Sequence[StudyTrials], console: Console) -> None:
        super().__init__((), console)
        budget = loaded.sweep.budget.trials
        self._trials = budget * len(studies) if budget else None
        self._maximize = loaded.sweep.objective.direction == "maximize"
        self._seeds = len(loaded.sweep.seeds)
        self._best: float | None = None
        self._ended_here = 0

    def __enter__(self) -> SweepDisplay:
        super().__enter__()
        if self._progress and self._total is not None:
            self._progress.update(self._total, description="trials ended here", total=self._trials, info="")
        return self

    def __call__(self, event: Event) -> None:
        """Show one event; single runs end without a line where a trial has but one."""
        if isinstance(event, RunFinished) and (not self._progress or self._seeds == 1):
            task = self._tasks.pop(event.run, None)
            if self._progress and task is not None:
                self._progress.remove_task(task)
            return
        super().__call__(event)

    def ended_trial(self, trial: OpenTrial, outcome: str, value: float | None, message: str) -> None:
        """A line for a trial that has ended."""
        self._ended_here += 1
        better = max if self._maximize else min
        if value is not None:
            self._best = value if self._best is None else better(value, self._best)
        named = short_names([*trial.study.plan.space.dimensions, *trial.values])
        told = ", ".join(f"{named[name]} {shown(v)}" for name, v in trial.values.items())
        score = "" if value is None else f"  {value:.2f}{' (best so far here)' if value == self._best else ''}"
        why = f"  {message.partition(chr(10))[0]}" if message else ""
        line = f"{outcome:<9} {trial.name}{score}  {told}{why}"
        self._line(outcome, line, STYLE.get(outcome, ""))
        if self._progress and self._total is not None:
            self._progress.update(self._total, completed=self._ended_here)


def short_name(field: str) -> str:
    """The last word of a dotted field, with the one before where that is a section's own name."""
    parts = field.split(".")
    return ".".join(parts[-2:]) if len(parts) > 1 and len(parts[-1]) < 6 else parts[-1]


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """Field -> its short name, longer where two fields would have one."""
    named, every = {}, dict.fromkeys(fields)
    for field in every:
        parts, name = field.split("."), short_name(field)
        while name != field and any(f".{other}".endswith(f".{name}") for other in every if other != field):
            name = ".".join(parts[-name.count(".") - 2 :])
        named[field] = name
    return named


def shown(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def study_view(result: StudyResult, loaded: LoadedSweep, top: int) -> Iterable[Any]:
    """The best trials, what was pruned, what mattered, and the cost, as Rich renderables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    objective = result.objective
    yield Text(f"\n{result.name}: {objective.score}, tune split, {objective.direction}"
               f"{', against ' + objective.against if objective.against else ''}", style="bold")  # fmt: skip
    yield Text(", ".join(f"{count} {outcome}" for outcome, count in result.counts().items()) or "no trial yet")
    columns, rows = table_of(result, top)
    if rows:
        table = Table(box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(column, justify="left" if column in ("arm", "") else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        yield table
    for line in remarks(result, loaded):
        yield Text(line)


def table_of(result: StudyResult, top: int) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the best trials."""
    trials = result.finished[:top]
    fields = list(dict.fromkeys(name for trial in trials for name in trial.values))
    front = {trial.number for trial in result.front} if result.objective.against else set()
    columns = ["trial", result.objective.score, *([result.objective.against] if result.objective.against else []),
               *short_names(fields).values(), "took", ""]  # fmt: skip
    firsts = len({trial.arm for trial in result.trials if trial.arm})
    rows = []
    for trial in trials:
        mark = ["front"] * (trial.number in front) + ["as the file has it"] * (trial.number < firsts)
        cost = [f"{trial.objectives[-1]:.3g}"] if result.objective.against else []
        values = [shown(trial.values[name]) if name in trial.values else "–" for name in fields]
        rows.append([str(trial.number), score_text(trial), *cost, *values, duration(trial.seconds), ", ".join(mark)])
    return columns, rows


def score_text(trial: TrialRecord) -> str:
    """The objective over the seeds with its interval."""
    if trial.score is None:
        return "–"
    width = trial.score.half_width
    return f"{trial.score.mean:.2f}" + (f" ± {width:.2f}" if width is not None else "")


def remarks(result: StudyResult, loaded: LoadedSweep) -> list[str]:
    """What mattered, how sure the scores are, what was left early, and the cost."""
    from vlm_ablate.sweeps.trials import INFEASIBLE

    lines = []
    if result.importances:
        named = short_names(result.importances)
        told = ", ".join(f"{named[name]} {share:.0%}" for name, share in result.importances.items())
        lines.append(f"what mattered (PED-ANOVA): {told}")
    if result.finished and len(loaded.sweep.seeds) == 1:
        lines.append("one seed a trial: the scores have no interval, and the best is partly the luckiest")
    early: dict[str, list[int]] = {}
    for trial in result.trials:
        if trial.outcome not in ("finished", "running"):
            early.setdefault(trial.outcome, []).append(trial.number)
    lines += [f"{outcome}: {counted(len(n), 'trial')} ({some_of([*map(str, n)], 20)})" for outcome, n in early.items()]
    messages = {trial.message.partition("\n")[0]: trial for trial in result.trials if trial.outcome == "failed"}
    lines += [f"trial {trial.number} failed: {message}" for message, trial in list(messages.items())[:3]]
    flops = sum(t.flops or 0.0 for t in result.trials if t.outcome != INFEASIBLE) * len(loaded.sweep.seeds)
    cost = duration(sum(trial.seconds for trial in result.trials))
    lines.append(f"cost: {cost} of computing" + (f", {flops:.2g} operations planned" if flops else ""))
    return lines


def study_markdown(result: StudyResult, loaded: LoadedSweep) -> str:
    """The best trials as Markdown, for the sweep's page in the tracking store."""
    columns, rows = table_of(result, 10)
    head = [f"**{result.name}**: {result.objective.score} on the tune split"]
    table = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]] if rows else []
    return "\n".join([*head, "", *table, "", *(f"- {line}" for line in remarks(result, loaded))])


def plan_view(loaded: LoadedSweep, home: Home) -> list[Any]:
    """Trials and runs, and what one costs in the file and at the ends of the space.

    Args:
        home: where plans are kept, and the runs are that others start from.

    Raises:
        ModelError, AssetMissing: the model of the file cannot be built.
    """
    from rich.text import Text

    from vlm_ablate.sweeps.cost import Costs, needs_cost

    costs = Costs(home)
    sweep, lines = loaded.sweep, []
    for study in loaded.studies:
        number = sweep.budget.trials
        if sweep.sampler.name == "grid":
            points = sum(1 for _ in study.space.grid()) + sum(bool(rest) for _, rest in study.first_trials())
            number = min(points, number) if number else points
        runs = f", {number * len(sweep.seeds)} runs at most" if number else ""
        seeds = counted(len(sweep.seeds), "seed")
        trials = f"{number} trials of {seeds}{runs}" if number else f"trials of {seeds} until the budget is spent"
        lines.append(Text(f"{study.name}: {trials}", style="bold"))
        lines.append(_costs(loaded, study, number, costs))
    limits = sweep.budget.model_dump(exclude_none=True)
    lines.append(Text("ends at: " + (", ".join(f"{v:g} {k}" for k, v in limits.items()) or "the end of the grid")))
    if needs_cost(sweep):
        limits = sweep.constraints.model_dump(exclude_none=True)
        told = ", ".join(f"{name} at most {value:g}" for name, value in limits.items())
        lines.append(Text(f"every trial is planned before it runs{'; ' + told if told else ''}"))
    return lines


def _costs(loaded: LoadedSweep, study: StudyPlan, number: int | None, costs: Costs) -> Any:
    """The file as it stands, and each field at its ends with the rest as in the file."""
    from rich import box
    from rich.table import Table

    from vlm_ablate.accounting import short_count
    from vlm_ablate.accounting.features import GIB
    from vlm_ablate.errors import ConfigError, ModelError
    from vlm_ablate.sweeps.config import ARM
    from vlm_ablate.sweeps.cost import over_limits
    from vlm_ablate.sweeps.space import extremes

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "parameters", "operations", "H100-hours\na run", "H100-hours\nall trials", "peak memory", ""):
        table.add_column(column, justify="right" if column else "left")
    seen: list[tuple[str, dict[str, Any]]] = [("as the file has it", values) for values, _ in study.first_trials()]
    for name, dimension in study.space.dimensions.items():
        if name != ARM:
            own = study.space.enabling(name)
            seen += [(f"{name} = {shown(v)}", {**seen[0][1], **own, name: v}) for v in extremes(dimension)[:8]]
    for label, values in seen:
        arm = f"{values[ARM]}: " if ARM in values else ""
        try:
            cost = costs.cost(loaded.specs(values, study.arms)[0].config)
        except (ConfigError, ModelError) as error:
            table.add_row(arm + label, "–", "–", "–", "–", "–", error.message.partition("\n")[0])
            continue
        runs = (number or 1) * len(loaded.sweep.seeds)
        over = [name for name, excess in over_limits(loaded.sweep, cost).items() if excess > 0]
        table.add_row(
            arm + label, short_count(cost.parameters), f"{cost.flops:.3g}",
            f"{cost.gpu_hours:.2g}", f"{cost.gpu_hours * runs:.3g}" if number else "–",
            f"{cost.peak_memory / GIB:.2f} GiB",
            f"never started: over {', '.join(over)}" if over else "",
        )  # fmt: skip
    return table
