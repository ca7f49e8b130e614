"""Narrow figures for a page that phones show, too: forest plot of claims, slope chart of orders, the curve by steps.

Each returns an SVG whose letters are letters, so that a page can give it its own colours and font.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.figures import STEPS, CurvePoint, colour, direct_labels, labels_height, panel, spread_out
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.rows import Comparison
from vlm_ablate.reporting.statistics import Verdict
from vlm_ablate.reporting.style import INK, PALETTE, SOFT, drawing, to_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 6.4
"""Inches: at 400 pixels a letter of 10 points is still 9 pixels high."""
COLOURS = {Verdict.agrees: PALETTE[2], Verdict.contradicts: PALETTE[1]}
"""Of a comparison that is settled; others are grey."""


def figure_forest(report: Report) -> bytes:
    """A row for each comparison of a claim: our paired difference with its interval, the paper's beside it.

    Raises:
        VlmAblateError: no comparison was run.
    """
    shown = [c for claim in report.claims for c in claim.comparisons if c.difference is not None]
    if not shown:
        raise VlmAblateError("no two arms of a claim were run with a common seed, so there are no differences to plot")
    names = ["\n".join(wrap(f"{c.better} − {c.worse}", 74)) for c in shown]
    heights = [0.3 + 0.17 * (1 + name.count("\n")) for name in names]
    with drawing(text=True):
        from matplotlib.figure import Figure

        height = sum(heights) + 0.75
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.03, 0.55 / height, 0.94, sum(heights) / height))
        y, marked = sum(heights), False
        for c, name, tall in zip(shown, names, heights, strict=True):
            _difference(axes, c, y - tall + 0.14)
            axes.text(0.0, y - 0.03, name, transform=axes.get_yaxis_transform(), va="top", fontsize=9, color=INK,
                      bbox={"facecolor": "#ffffff", "edgecolor": "none", "pad": 1})  # fmt: skip
            marked, y = marked or c.paper_gain is not None, y - tall
        axes.axvline(0, color=SOFT, linewidth=1.0, zorder=1)
        axes.set(ylim=(0, sum(heights)), yticks=[], xlabel=_axis_name(shown, marked))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        return to_bytes(figure, "svg")


def _axis_name(shown: Sequence[Comparison], paper: bool) -> str:
    ends = any(c.difference and c.difference.half_width is not None for c in shown)
    text = f"Difference in points, paired by seed{', 95 % interval' * ends}"
    return text + ("; ◇ the paper's" if paper else "")


def _difference(axes: Axes, c: Comparison, y: float) -> None:
    assert c.difference is not None
    shade = COLOURS.get(c.outcome, SOFT)
    axes.errorbar(c.difference.mean, y, xerr=c.difference.half_width, fmt="o", color=shade, markersize=6,
                  elinewidth=1.8, capsize=0)  # fmt: skip
    if c.paper_gain is not None:
        axes.plot(c.paper_gain, y, marker="D", markersize=6, markerfacecolor="none", markeredgecolor=INK, linestyle="")


def figure_slope(report: Report) -> bytes:
    """Paper on the left, this run on the right, a line for each arm; either side has its own scale, by its own range.

    Raises:
        VlmAblateError: fewer than two arms have both scores.
    """
    rows = [(i, row, row.paper_score, found.mean) for i, row in enumerate(report.rows)
            if row.paper_score is not None and (found := row.score())]  # fmt: skip
    if len(rows) < 2:
        raise VlmAblateError("fewer than two arms have both a score of ours and one of the paper")
    left, right = (_placed([row[side] for row in rows]) for side in (2, 3))  # type: ignore[misc]  # two floats
    names = ["\n".join(wrap(f"{ours:.1f}  {row.label}", 36)) for _, row, _, ours in rows]
    lines = max(len(rows), sum(1 + name.count("\n") for name in names))
    height = 0.9 + 0.24 * lines
    with drawing(text=True):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.1, 0.04, 0.42, 1 - 0.5 / height - 0.04))
        line, inch = 0.2 / (height - 0.5), 1.12 / (0.96 * height - 0.5)  # in the axes' own units
        ends = -0.06 - 0.02 * height * inch, 1.06 + 0.2 * inch  # below: the edge; above: the headings
        ours = spread_out(right, [line * (1 + name.count("\n")) for name in names], *ends)
        theirs = spread_out(left, [line] * len(rows), *ends)
        for (i, _, paper, _), at, to, name, y, z in zip(rows, left, right, names, ours, theirs, strict=True):
            shade = colour(i)
            axes.plot([0, 1], [at, to], color=shade, linewidth=1.9, marker="o", markersize=5, clip_on=False)
            axes.text(-0.04, z, f"{paper:.1f}", ha="right", va="center", fontsize=9, color=shade)
            axes.text(1.04, y, name, ha="left", va="center", fontsize=9, color=shade, linespacing=1.1)
        axes.set(xlim=(0, 1), ylim=(-0.06, 1.06))
        axes.axis("off")
        top = 1 - 0.22 / height
        figure.text(0.1, top, "Paper", ha="center", fontsize=10, fontweight="bold", color=INK)
        figure.text(0.52, top, "This run", ha="center", fontsize=10, fontweight="bold", color=INK)
        return to_bytes(figure, "svg")


def _placed(values: Sequence[float]) -> list[float]:
    """0 for the least, 1 for the greatest; all in the middle where they are one."""
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.5 for v in values]


def figure_curve(report: Report, found: Mapping[str, Sequence[CurvePoint]]) -> bytes:
    """Mean score on the tune split against training steps, a line for each arm, band = 95 % interval.

    Args:
        found: of `figures.curves`.

    Raises:
        VlmAblateError: no arm was scored more than once along the way.
    """
    if not any(len(points) > 1 for points in found.values()):
        raise VlmAblateError("no run of this experiment was scored along the way, so there is no curve")
    with drawing(text=True):
        from matplotlib.figure import Figure

        room = (0.02, 0.98)
        figure = Figure(figsize=(WIDTH, max(3.4, labels_height(report, found) / (room[1] - room[0]))))
        axes = figure.add_axes((0.09, 0.14, 0.53, 0.82))
        panel(axes, report, found, STEPS)
        axes.set(xlabel="Training steps", ylabel="Mean score, tune split")
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
        direct_labels(axes, report, found, room, STEPS)
        return to_bytes(figure, "svg")
