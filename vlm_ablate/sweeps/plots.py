"""Pictures of a study: scores as they came, over each field, what mattered, and score against cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.style import INK, MARKERS, PALETTE, SOFT, drawing, to_bytes
from vlm_ablate.sweeps.config import ARM
from vlm_ablate.sweeps.results import StudyResult, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("history", "slice", "importance", "pareto")
_PER_ROW = 3
_LOG_FROM = 20
"""Largest value by the smallest, from which a field's axis is logarithmic."""


def plots(result: StudyResult) -> dict[str, bytes]:
    """Name -> PNG, those of `NAMES` for which there is something to show.

    Raises:
        VlmAblateError: no trial is finished.
    """
    if not result.finished:
        raise VlmAblateError(f"no trial of {result.name!r} is finished: there is nothing to draw")
    drawn: dict[str, bytes] = {"history": _figure(result, 7.0, 3.6, _history), "slice": _slices(result)}
    if result.importances:
        drawn["importance"] = _figure(result, 7.0, 1.2 + 0.35 * len(result.importances), _importance)
    if result.objective.against:
        drawn["pareto"] = _figure(result, 7.0, 4.2, _pareto)
    return drawn


def _figure(result: StudyResult, width: float, height: float, draw: Callable[[StudyResult, Axes], None]) -> bytes:
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        draw(result, axes)
        axes.set_title(result.name, loc="left", fontsize=11, fontweight="bold")
        return to_bytes(figure, "png", dpi=150)


def score_name(result: StudyResult) -> str:
    """The objective as an axis calls it."""
    return f"{'Mean' if result.objective.score == 'mean' else result.objective.score} score, tune split"


def _history(result: StudyResult, axes: Axes) -> None:
    """Every trial in its order, and the best so far."""
    trials = sorted(result.finished, key=lambda trial: trial.number)
    numbers, scores = [t.number for t in trials], [t.objectives[0] for t in trials]
    better = max if result.objective.direction == "maximize" else min
    best = [better(scores[: i + 1]) for i in range(len(scores))]
    axes.step(numbers, best, where="post", color=PALETTE[0], linewidth=1.8, label="best so far")
    _points(axes, trials, lambda trial: trial.number, _arms(result))
    early = [t for t in result.trials if t.outcome in ("pruned", "diverged", "stopped")]
    if early:
        axes.plot([t.number for t in early], [axes.get_ylim()[0]] * len(early), "|", color=SOFT, clip_on=False,
                  label="pruned or diverged")  # fmt: skip
    axes.set_xlabel("Trial")
    axes.set_ylabel(score_name(result))
    axes.legend(frameon=False, fontsize=8.5)


def _points(axes: Axes, trials: Sequence[TrialRecord], x: Callable[[TrialRecord], Any], arms: Sequence[str]) -> None:
    """Trials as points with their intervals, an arm in a colour; the file as it stands with a ring."""
    for i, arm in enumerate(arms):
        own = [trial for trial in trials if trial.arm == arm]
        if not own:
            continue
        spread = [(t.score.half_width or 0.0) if t.score else 0.0 for t in own]
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        axes.errorbar(
            [x(t) for t in own], [t.objectives[0] for t in own], yerr=spread if any(spread) else None, fmt=marker,
            color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.5, elinewidth=0.8,
            label=arm if len(arms) > 1 else None,
        )  # fmt: skip
    first = [trial for trial in trials if trial.number < len(arms)]
    if first:
        axes.plot([x(t) for t in first], [t.objectives[0] for t in first], "o", markersize=10, markerfacecolor="none",
                  markeredgecolor=INK, markeredgewidth=1.0, label="the file as it stands")  # fmt: skip


def _arms(result: StudyResult) -> list[str]:
    """Those of which a trial has its values."""
    by_number = sorted(result.trials, key=lambda trial: trial.number)
    return list(dict.fromkeys(trial.arm for trial in by_number if trial.arm))


def _slices(result: StudyResult) -> bytes:
    """The score over each field."""
    arms = _arms(result)
    names = [name for name in dict.fromkeys(n for t in result.finished for n in t.values)
             if name != ARM or len(arms) > 1]  # fmt: skip
    columns = min(_PER_ROW, len(names))
    rows = -(-len(names) // columns)
    with drawing():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(3.4 * columns + 0.6, 3.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, name in zip(panels.flat, names, strict=False):
            own = [trial for trial in result.finished if name in trial.values]
            values = [trial.values[name] for trial in own]
            numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            if numeric:
                _points(axes, own, lambda trial, name=name: trial.values[name], arms)  # type: ignore[misc]  # bound now
                low, high = min(map(_number, values)), max(map(_number, values))
                if low > 0 and high / low >= _LOG_FROM:
                    axes.set_xscale("log")
                elif all(isinstance(value, int) for value in values):
                    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            else:
                places = {text: i for i, text in enumerate(dict.fromkeys(map(str, values)))}
                _points(axes, own, lambda t, n=name, p=places: p[str(t.values[n])], arms)  # type: ignore[misc]
                axes.set_xticks(list(places.values()), list(places), rotation=20, ha="right", fontsize=8)
            axes.set_xlabel(name, fontsize=9)
        for axes in list(panels.flat)[len(names) :]:
            axes.set_visible(False)
        panels[0][0].set_ylabel(score_name(result))
        if len(arms) > 1:
            panels[0][0].legend(frameon=False, fontsize=8)
        figure.suptitle(result.name, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return to_bytes(figure, "png", dpi=150)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _importance(result: StudyResult, axes: Axes) -> None:
    """Share of each field in what makes the good trials good."""
    names = sorted(result.importances, key=lambda name: result.importances[name])
    axes.barh(names, [result.importances[name] for name in names], color=PALETTE[0], height=0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("Importance (PED-ANOVA)")
    axes.grid(axis="y", visible=False)


def _pareto(result: StudyResult, axes: Axes) -> None:
    """Score against cost; the front as a line."""
    _points(axes, result.finished, lambda trial: trial.objectives[-1], _arms(result))
    front = result.front
    axes.step([t.objectives[-1] for t in front], [t.objectives[0] for t in front], where="post", color=PALETTE[1],
              linewidth=1.4, label="no trial is better in both")  # fmt: skip
    for trial in front:
        axes.annotate(str(trial.number), (trial.objectives[-1], trial.objectives[0]), xytext=(4, 5),
                      textcoords="offset points", fontsize=8, color=SOFT)  # fmt: skip
    against = result.objective.against
    axes.set_xlabel("Operations of a training (planned)" if against == "flops" else "Parameters of the model (planned)")
    axes.set_ylabel(score_name(result))
    axes.legend(frameon=False, fontsize=8.5)
