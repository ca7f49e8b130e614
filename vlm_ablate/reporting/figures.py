"""Figures: score against what a run has seen (the paper's Figure 4), and our order of arms against the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.health import CURVE_METRIC, curve_of
from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.reporting.statistics import Estimate, estimate
from vlm_ablate.reporting.style import INK, MARKERS, PALETTE, SOFT, drawing, to_bytes
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = "steps"
PANELS = (
    (STEPS, "Training steps"),
    (schema.SEEN_IMAGES, "Images seen"),
    (schema.SEEN_TEXT_TOKENS, "Text tokens seen"),
    (schema.SEEN_FLOPS, "Training FLOPs"),
)


def history_metrics(columns: Iterable[str]) -> tuple[str, ...]:
    """What a caller must read of a run (`tracking.read.read_history`) for curves and the health of benchmarks."""
    return (CURVE_METRIC, *map(schema.curve_metric, columns), *schema.SEEN)


@dataclass(frozen=True)
class CurvePoint:
    """One measurement along the way: what had been seen (mean over seeds) and the score then."""

    step: int
    seen: Mapping[str, float]
    score: Estimate


def curves(
    report: Report, records: Sequence[RunRecord], histories: Mapping[str, History]
) -> dict[str, list[CurvePoint]]:
    """Arm -> points in order of step, each over the seeds that were measured at that step."""
    found: dict[str, list[CurvePoint]] = {}
    for row in report.rows:
        runs = [r for r in records if r.arm == row.arm and r.run_id in report.run_ids and r.status in schema.DONE]
        by_step: dict[int, list[tuple[float, dict[str, float]]]] = {}
        for run in sorted(runs, key=lambda r: r.seed):
            for step, score, seen in _points(histories.get(run.run_id, {})):
                by_step.setdefault(step, []).append((score, seen))
        points = [_pooled(step, values) for step, values in sorted(by_step.items())]
        if points:
            found[row.arm] = points
    return found


def _points(history: History) -> list[tuple[int, float, dict[str, float]]]:
    """(step, score, seen) where both the score and all counters were logged at a step."""
    seen = {metric: {p.step: p.value for p in history.get(metric, [])} for metric, _ in PANELS if metric != STEPS}
    return [
        (point.step, point.value, {STEPS: float(point.step)} | {m: at[point.step] for m, at in seen.items()})
        for point in curve_of(history)
        if all(point.step in at for at in seen.values())
    ]


def _pooled(step: int, values: Sequence[tuple[float, dict[str, float]]]) -> CurvePoint:
    seen = {m: sum(s[m] for _, s in values) / len(values) for m, _ in PANELS}
    score = estimate([score for score, _ in values])
    assert score is not None
    return CurvePoint(step, seen, score)


def figure_seen(
    report: Report, records: Sequence[RunRecord], histories: Mapping[str, History], format: str = "png"
) -> bytes:
    """Mean score against steps, images, text tokens and FLOPs: a panel each, a line for each arm, band = 95 % interval.

    Args:
        histories: run id -> metric histories of `history_metrics`.
        format: "png" or "svg".

    Raises:
        VlmAblateError: no run was scored along the way.
    """
    found = curves(report, records, histories)
    if not any(len(points) > 1 for points in found.values()):
        raise VlmAblateError(
            "no run of this experiment was scored along the way, so there are no curves",
            hint="the score after training is in the table",
        )
    with drawing():
        from matplotlib.figure import Figure

        # Names that need more room than the figure has beside its panels make it higher.
        room = (0.02, 0.925)
        figure = Figure(figsize=(13.0, max(4.2, labels_height(report, found) / (room[1] - room[0]))))
        figure.subplots_adjust(left=0.05, right=0.83, bottom=0.14, top=0.87, wspace=0.1)
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (metric, name) in zip(panels, PANELS, strict=True):
            panel(axes, report, found, metric)
            axes.set_xlabel(name)
        panels[0].set_ylabel(f"Mean score, tune split{', 95 % interval' if _banded(found) else ''}")
        panels[0].set_ylim(bottom=max(0.0, panels[0].get_ylim()[0]))  # wide intervals reach below what a score can be
        direct_labels(panels[-1], report, found, room)
        figure.text(0.008, 0.945, _heading(report), fontsize=11.5, fontweight="bold")
        return to_bytes(figure, format)


def panel(axes: Axes, report: Report, found: Mapping[str, Sequence[CurvePoint]], metric: str) -> None:
    """Score against one of `PANELS`: a line for each arm, its band, and the blind floor."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for i, row in enumerate(report.rows):
        points = found.get(row.arm, ())
        x, y = [p.seen[metric] for p in points], [p.score.mean for p in points]
        shade = colour(i)
        bands = [(p.score.low, p.score.high) for p in points if p.score.low is not None and p.score.high is not None]
        if bands and len(bands) == len(points):
            low, high = zip(*bands, strict=True)
            axes.fill_between(x, low, high, color=shade, alpha=0.13, linewidth=0)
        axes.plot(x, y, color=shade, linewidth=1.9, marker=_marker(i), markersize=5, markeredgecolor="white",
                  markeredgewidth=0.6)  # fmt: skip
    floor = _floor(report)
    if floor is not None:
        axes.axhline(floor, color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5 if metric != schema.SEEN_FLOPS else 3))
    axes.xaxis.set_major_formatter(FuncFormatter(_si if metric != schema.SEEN_FLOPS else _scientific))
    axes.margins(x=0.03)


def _floor(report: Report) -> float | None:
    """The highest blind score of any arm over the columns of the curve; known for the report split only."""
    floors = [[row.floor(c) for c in report.curve_columns] for row in report.rows]
    means = [fmean(f.mean for f in arm if f) for arm in floors if arm and all(arm)]
    return max(means, default=None)


def _banded(found: Mapping[str, Sequence[CurvePoint]]) -> bool:
    return any(p.score.half_width is not None for points in found.values() for p in points)


LABEL_LINE, LABEL_GAP = 0.1472, 0.0613
"""Inches: height of a line of a name beside a curve, and the room between two names."""
_FLOOR_LABEL = "blind floor\n(report split)"


def _label(row: ArmRow) -> str:
    from textwrap import wrap

    return "\n".join(wrap(row.label, 28))


def _label_height(text: str) -> float:
    return LABEL_LINE * (1 + text.count("\n")) + LABEL_GAP


def labels_height(report: Report, found: Mapping[str, Sequence[CurvePoint]]) -> float:
    """Inches that the names of the arms with curves and of the floor take, one below the other."""
    return sum(map(_label_height, [_FLOOR_LABEL, *(_label(row) for row in report.rows if found.get(row.arm))]))


def direct_labels(
    axes: Axes,
    report: Report,
    found: Mapping[str, Sequence[CurvePoint]],
    room: tuple[float, float],
    metric: str = PANELS[-1][0],
) -> None:
    """Each arm's name at the right of the last panel, level with its last point as far as the names leave room.

    Args:
        room: where names may stand, from and to which share of the figure's height.
    """
    low, high = axes.get_ylim()
    ends: list[float] = []
    texts: list[tuple[str, str, float | None]] = []
    for i, row in enumerate(report.rows):
        if points := found.get(row.arm):
            last = points[-1]
            ends.append((last.score.mean - low) / (high - low))
            texts.append((_label(row), colour(i), last.seen[metric]))
    floor = _floor(report)
    if floor is not None and low < floor:
        ends.append((floor - low) / (high - low))
        texts.append((_FLOOR_LABEL, SOFT, None))
    inches, box = axes.bbox.height / axes.figure.dpi, axes.get_position()
    heights = [_label_height(text) / inches for text, _, _ in texts]
    bottom, top = ((end - box.y0) / box.height for end in room)
    for (text, shade, x), end, y in zip(texts, ends, spread_out(ends, heights, bottom, top), strict=True):
        start = axes.transAxes.inverted().transform(axes.transData.transform((x, low)))[0] if x is not None else 1.0
        line = [start + 0.012 if x is not None else 1.0, 1.015, 1.035], [end, end, y]
        axes.plot(*line, transform=axes.transAxes, color=shade, linewidth=0.8, alpha=0.55, clip_on=False)
        axes.text(1.045, y, text, transform=axes.transAxes, color=shade, va="center", fontsize=9, linespacing=1.1)


def spread_out(
    wanted: Sequence[float], heights: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Centres as near to the wanted ones as can be without overlap: neighbours that touch move apart together.

    Near is the least sum of squares: of a block that touches, the bottom is the mean of those that its members ask for.

    Args:
        low, high: between which all must stand; there is room for them.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[tuple[list[int], float, float]] = []  # members, bottom, height
    for i in order:
        members, bottom, height = [i], wanted[i] - heights[i] / 2, heights[i]
        while blocks and blocks[-1][1] + blocks[-1][2] > bottom:
            below, lower, tall = blocks.pop()
            asked = lower * len(below) + (bottom - tall) * len(members)
            members, height = below + members, tall + height
            bottom = asked / len(members)
        blocks.append((members, bottom, height))
    placed, under = [0.0] * len(wanted), 0.0
    for members, bottom, height in blocks:
        # What stands below and above a block must have room, too.
        bottom = max(low + under, min(bottom, high - (sum(heights) - under)))
        under += height
        for i in members:
            placed[i] = bottom + heights[i] / 2
            bottom += heights[i]
    return placed


def figure_paper(report: Report, format: str = "png") -> bytes:
    """Ours against the paper's score, one row for each arm in the paper's order: two dot panels that share the rows.

    Raises:
        VlmAblateError: no arm has both scores.
    """
    rows = [row for row in report.rows if row.paper_score is not None]
    if not any(row.score() for row in rows):
        raise VlmAblateError("no arm has both a score of ours and one of the paper")
    rows = sorted(rows, key=lambda row: row.paper_score or 0.0)
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 1.5 + 0.42 * len(rows)), layout="constrained")
        paper, ours = figure.subplots(1, 2, sharey=True)
        for y, row in enumerate(rows):
            _dot(paper, row.paper_score or 0.0, None, y, SOFT)
            found = row.score()
            if found is None:
                across = ours.get_yaxis_transform()
                ours.text(0.02, y, row.status, transform=across, va="center", color=SOFT, style="italic")
            else:
                _dot(ours, found.mean, found.half_width, y, PALETTE[0])
        number = report.paper.number if report.paper else ""
        paper.set_title(f"Paper ({number})", fontsize=10, loc="left")
        ours.set_title(f"This run ({_where(report)})", fontsize=10, loc="left")
        for axes in (paper, ours):
            axes.set(yticks=range(len(rows)), ylim=(-0.6, len(rows) - 0.4), xlabel="Mean score")
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.margins(x=0.18)
        paper.set_yticklabels([row.label for row in rows])
        if any((found := row.score()) and found.half_width is not None for row in rows):
            ours.set_xlabel("Mean score, 95 % interval")
        figure.suptitle(report.title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        return to_bytes(figure, format)


def _dot(axes: Axes, x: float, half_width: float | None, y: int, colour: str) -> None:
    axes.errorbar(x, y, xerr=half_width, fmt="o", color=colour, markersize=7, elinewidth=1.6, capsize=0)
    axes.annotate(f"{x:.1f}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8.5, color=INK)


def _where(report: Report) -> str:
    return f"{report.scale}{', with stand-ins' if report.stand_ins else ''}"


def _heading(report: Report) -> str:
    return f"{report.title} · {_where(report)}"


def colour(i: int) -> str:
    """Of the arm at this place."""
    return PALETTE[i % len(PALETTE)]


def _marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]


def _si(value: float, _: Any = None) -> str:
    """1500 -> 1.5k."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _scientific(value: float, _: Any = None) -> str:
    """2.5e15 -> 2.5·10¹⁵."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{float(mantissa):g}·10{raised}"
