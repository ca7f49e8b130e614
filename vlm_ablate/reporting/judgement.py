"""Footnotes on what the comparisons of a table can say: their correction, their power, the health of benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.health import Health
from vlm_ablate.reporting.rows import Comparison
from vlm_ablate.tracking import schema

Note = tuple[str, str]


def judgement_notes(report: Report) -> Iterable[Note]:
    """(subject, text), those first without which the table is misread."""
    yield from _silent(report)
    tested = [(claim.margin, c) for claim in report.claims for c in claim.comparisons if c.p_holm is not None]
    if tested:
        yield "Claims", _claims(len(tested), sorted({margin for margin, _ in tested if margin is not None}))
        yield "Power", _power([(margin is not None, c) for margin, c in tested])
    if any(row.rank_range and row.rank_range[0] != row.rank_range[1] for row in report.rows):
        yield "Ranks", (
            "the places that an arm may have. Two arms share places where the 95 % interval of their paired difference "
            "holds zero, each pair for itself."
        )
    yield from _health(report)


def _silent(report: Report) -> Iterable[Note]:
    """What no comparison of the table may be read from."""
    for column, health in report.health.items():
        name = _name(report, column)
        if health.rising is not None and not health.monotone:
            text = f"{name} does not rise with training (Kendall's τ of step and score {_signed(health.rising)})."
            yield "Says nothing", text
        for edge, arms in (("blind floor", health.at_floor), ("ceiling", health.at_ceiling)):
            if arms and (column == schema.MEAN or len(arms) == len([r for r in report.rows if r.score(column)])):
                yield "Says nothing", f"{name}: at the {edge}: {'; '.join(arms.values())}."


def _claims(tested: int, margins: Sequence[float]) -> str:
    """How verdicts were come to; with the margins of what is claimed to be similar, in points."""
    text = "paired differences over seeds with 95 % intervals; a verdict holds after "
    text += f"Holm's correction over {tested} comparisons." if tested > 1 else "a test at 95 %."
    if not margins:
        return text
    told = f"{' or '.join(f'±{margin:g}' for margin in margins)} point{'s' * (margins != [1])}"
    return f"{text} Similar: two one-sided tests that the difference lies within the margin, {told}."


def _power(tested: Sequence[tuple[bool, Comparison]]) -> str:
    """The range of what the comparisons that were tested could have seen; with each, whether it is of likeness."""
    parts = []
    for similar, what in ((False, "a true difference"), (True, "a margin of equivalence")):
        seen = [c.visible for of_likeness, c in tested if c.visible is not None and of_likeness is similar]
        if seen:
            ends = f"{min(seen):.1f}" if len(seen) == 1 else f"{min(seen):.1f} to {max(seen):.1f}"
            parts.append(f"{what} of {ends} points")
    text = f"{' and '.join(parts)} would have been seen with a chance of 80 %, and hardly a smaller one"
    return f"{text} (Visible from: for each comparison, before the correction)."


def _health(report: Report) -> Iterable[Note]:
    described = {_name(report, column): _described(health, report) for column, health in report.health.items()}
    if parts := [f"{name}: {text}" for name, text in described.items() if text]:
        yield "Health", (
            f"{'; '.join(parts)}. Above floor: arms more than 5 % of the way from the blind floor to the ceiling. "
            "Rising: Kendall's τ of step and score along the way, over arms at neither edge. Signal to noise: spread "
            "of arms over spread of seeds."
        )


def _described(health: Health, report: Report) -> str:
    scored = [row for row in report.rows if row.score(health.column)]
    if not scored:
        return ""
    parts = []
    if health.column in report.floor:
        parts.append(f"{len(scored) - len(health.at_floor)} of {len(scored)} above floor")
    if health.at_ceiling:
        parts.append(f"{len(health.at_ceiling)} at ceiling")
    if health.passed:
        parts.append("the ceiling is passed, and so is none")
    if health.rising is not None:
        parts.append(f"rising {_signed(health.rising)}")
    if health.signal_to_noise is not None:
        parts.append(f"signal to noise {min(health.signal_to_noise, 999):.1f}")
    return ", ".join(parts)


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _name(report: Report, column: str) -> str:
    return "the mean" if column == schema.MEAN else report.headings.get(column, column)
