"""How a plan is shown around its tables: header, diffs, notes and warnings, as Rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlm_ablate.accounting import short_count
from vlm_ablate.accounting.fits import LESS_MEMORY
from vlm_ablate.cli.console import counted
from vlm_ablate.cli.plan_tables import Plans, paper_row, size, timed
from vlm_ablate.config.diff import arm_diff, group_by_value, groups_text
from vlm_ablate.config.scales import PAPER

if TYPE_CHECKING:
    from vlm_ablate.accounting import Gpu, ModelPlan
    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.config.loading import ResolvedArm
    from vlm_ablate.config.run_config import RunConfig

_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def header(loaded: LoadedExperiment, seeds: Sequence[int] | None = None) -> Iterable[Any]:
    """What the experiment asks, at which scale, how many runs it has, and what stands in for what the paper names."""
    experiment, scale = loaded.experiment, loaded.scale
    yield Text(f"{experiment.name}: {experiment.title}", style="bold")
    if experiment.question:
        yield Text(experiment.question)
    numbers = list(dict.fromkeys(experiment.seeds if seeds is None else seeds))
    some = f"{len(loaded.arms)} of " if loaded.left_out else ""
    arms = some + counted(len(loaded.arms) + len(loaded.left_out), "arm")
    runs = counted(len(loaded.arms) * len(numbers), "run")
    yield Text(f"scale {scale.name}: {scale.summary}".rstrip(": "))
    yield Text(f"{arms} x seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))} = {runs}")
    if loaded.sets:
        yield Text(f"set by hand: {'; '.join(loaded.sets)}")
    yield _changes(loaded)
    yield Text()


def _changes(loaded: LoadedExperiment) -> Table:
    """Stand-ins, and the values that the scale changed by section, each once."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="yellow", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for path, what in _common(arm.stand_ins for arm in loaded.arms.values()):
        grid.add_row("stand-in", path.removesuffix(".benchmark").removeprefix("evaluation."), what)
    sections: dict[str, dict[str, list[str]]] = {}
    for path, what in _common(arm.scaled for arm in loaded.arms.values()):
        section, field = _section(path)
        sections.setdefault(section, {}).setdefault(field, []).append(what)
    for section, fields in sections.items():
        grid.add_row("scaled", section, ", ".join(f"{field} {' or '.join(w)}" for field, w in fields.items()))
    return grid


def _section(path: str) -> tuple[str, str]:
    """`stages.pretrain.lora.r` -> (`stages.pretrain`, `lora.r`); data and evaluation are one section each."""
    keys = path.split(".")
    depth = 2 if keys[0] in ("model", "stages") else 1
    return ".".join(keys[:depth]), ".".join(keys[depth:])


def diffs(loaded: LoadedExperiment, arms: Sequence[ResolvedArm]) -> Iterable[Text]:
    """Each arm as a diff of the base."""
    for arm in arms:
        changes = arm_diff(loaded.base, arm.config)
        yield Text.assemble((arm.name, "bold cyan"), f"  {arm.label}" if arm.label != arm.name else "")
        if not changes:
            yield Text("    the base itself", style="dim")
        for change in changes:
            yield Text.assemble(
                "    ", change.path, ": ", (str(change.base), "red"), " -> ", (str(change.arm), "green")
            )
    yield Text()


def notes(loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans) -> Iterable[Any]:
    """Where a parameter count is not the paper's, and the arms' notes, which say why; once for arms that share it."""
    written: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        found = []
        if loaded.scale.name == PAPER and arm.name in plans:
            found = paper_differences(paper_row(loaded, arm) or {}, plans[arm.name])
        own = [" ".join(arm.note.split())] if arm.note else []
        if found or own:
            written.setdefault((*found, *own), []).append(arm.name)
    for texts, names in written.items():
        yield Text.assemble((", ".join(names), "cyan"))
        yield from (Padding(Text(text), (0, 0, 0, 4), expand=False) for text in texts)


def paper_differences(row: Mapping[str, Any], plan: ModelPlan) -> list[str]:
    """Our parameter counts that are not those of the paper's row, to the digits that the paper prints."""
    ours = {"total": plan.total_parameters, "trainable": plan.trainable_parameters}
    found: list[str] = []
    for what, count in ours.items():
        printed = row.get(f"{what}_params")
        if printed and abs(count - (paper := parse_count(printed))) > rounding(printed):
            found.append(
                f"{what} parameters: {short_count(count)}, where the paper prints {printed} ({count / paper - 1:+.1%})"
            )
    return found


def plan_warnings(plans: Plans) -> list[str]:
    """Where compared arms do not match in tokens or trainable parameters."""
    kinds = {
        "visual tokens per image": {n: str(p.visual_tokens_per_image) for n, p in plans.items()},
        "tokens per image in the text stream": {n: str(p.placeholders_per_image) for n, p in plans.items()},
        "trainable parameters": {n: short_count(p.trainable_parameters) for n, p in plans.items()},
    }
    groups = {what: group_by_value(values) for what, values in kinds.items()}
    return [f"the arms do not have the same {what}: {groups_text(g)}" for what, g in groups.items() if len(g) > 1]


def memory_warnings(plans: Plans, gpu: Gpu) -> list[str]:
    """Stages of long runs that do not fit a GPU of that kind."""
    if not timed(plans):
        return []
    tight = {
        f"{name} {stage.name}": size(stage.memory.peak)
        for name, plan in plans.items()
        for stage in plan.stages.values()
        if stage.memory.peak > gpu.memory
    }
    if not tight:
        return []
    where = ", ".join(f"{peak} ({name})" for name, peak in tight.items())
    return [
        f"more than the {size(gpu.memory)} of {gpu.title}: {where}; see --shards, --micro-batch, --checkpointing. For"
        f" the runs: {LESS_MEMORY}"
    ]


def length_warnings(plans: Plans, configs: Mapping[str, RunConfig]) -> list[str]:
    """Sequences that do not hold an image of the sample; the arms, where not all have them."""
    from vlm_ablate.accounting import cut_images

    found: dict[str, list[str]] = {}
    for name, plan in plans.items():
        for text in cut_images(plan, configs[name]):
            found.setdefault(text, []).append(name)
    return [f"{text} ({', '.join(arms)})" if len(arms) < len(plans) else text for text, arms in found.items()]


def launch_warnings(refused: Mapping[str, str]) -> list[str]:
    """Arms that `run` would not launch as they are planned, and why.

    Args:
        refused: arm -> why.
    """
    if not refused:
        return []
    return [f"`run` refuses what is planned here, so no GPU-hours are told: {groups_text(group_by_value(refused))}"]


def parse_count(text: str) -> float:
    """`"740M"` -> 740e6."""
    return float(text[:-1]) * _UNITS[text[-1]]


def rounding(text: str) -> float:
    """Half of the last digit that counts: `"7.6B"` -> 0.05e9; a third digit that is zero does not: `"740M"` -> 5e6."""
    digits = text[:-1]
    decimals = len(digits.partition(".")[2])
    trailing = 0 if decimals else min(len(digits) - len(digits.rstrip("0")), max(len(digits) - 2, 0))
    return 0.5 * 10.0 ** (trailing - decimals) * _UNITS[text[-1]]


def _common(tables: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Entries of any arm, once each."""
    return list(dict.fromkeys(item for table in tables for item in table.items()))
