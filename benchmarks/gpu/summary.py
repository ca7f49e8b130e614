"""What the parts of the pack say together: ratios to transformers' models, and of each switch to the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AIMS = {"tokens_per_s": 2.0, "peak_gib": 0.7, "mfu": 0.45}
"""Of Idefics3-8B: tokens a second over transformers' at least, memory over theirs at most, MFU at least."""
BASE = "switch as it is"


def summary(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Part -> tokens a second and peak memory over those of what it is compared with, and its MFU.

    Args:
        parts: name -> {"found": ...} or why there is nothing.
    """
    found: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        other = BASE if name.startswith("switch ") else f"{name} transformers"
        mine, their = part.get("found"), parts.get(other, {}).get("found")
        if mine and their and name != other and "tokens_per_s" in mine:
            ratios = {what: mine[what] / their[what] for what in ("tokens_per_s", "peak_gib") if mine.get(what)}
            found[name] = ratios | ({"mfu": mine["mfu"]} if mine.get("mfu") else {})
    return found


def text(found: Mapping[str, Any]) -> str:
    """A page with one line for each part."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [f"# {found['machine']}", "", versions, ""]
    head = ("part", "tokens/s", "MFU", "HFU", "peak GiB", "fill", "tokens/s over", "memory over", "s")
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, part in found["parts"].items():
        values, ratios = part.get("found"), found["summary"].get(name, {})
        if not isinstance(values, Mapping) or "tokens_per_s" not in values:
            told = "ok" if "found" in part else part.get("skipped") or part.get("failed", "")
            lines.append(f"| {name} | {_cell(told.splitlines()[0])} |" + " |" * 6 + f" {part.get('seconds', '')} |")
            continue
        cells = [
            name, f"{values['tokens_per_s']:,.0f}", _share(values.get("mfu")), _share(values.get("hfu")),
            _number(values.get("peak_gib")), f"{values['fill']:.2f}", _number(ratios.get("tokens_per_s")),
            _number(ratios.get("peak_gib")), str(part.get("seconds", "")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", '*over*: of transformers\' model on padded batches; of a switch, of the line "as it is".']
    halved = {name: part["found"]["rows"] for name, part in found["parts"].items() if _rows(part)}
    if halved:
        each = ", ".join(f"{rows} ({name})" for name, rows in halved.items())
        lines.append(f"Rows of their micro-batches, halved until they fit, where ours are of a whole step: {each}.")
    told = [part["found"] for part in found["parts"].values() if isinstance(part.get("found"), Mapping)]
    if not any(values.get("mfu") for values in told):
        lines.append("MFU is not told: this machine is not among the data sheets of the package.")
    lines.append(
        f"Aims of Idefics3-8B: tokens/s over {AIMS['tokens_per_s']}, memory over {AIMS['peak_gib']}, "
        f"MFU {AIMS['mfu']:.0%}."
    )
    return "\n".join(lines) + "\n"


def _rows(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("found"), Mapping) and "rows" in part["found"]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "/")[:200]
