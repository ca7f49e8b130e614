"""How a plan is shown: header, diffs, tables, notes and warnings, as Rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlm_ablate.config.diff import arm_diff, group_by_value, groups_text
from vlm_ablate.config.scales import PAPER
from vlm_ablate.models.accounting import short_count
from vlm_ablate.papers import find_row

if TYPE_CHECKING:
    from vlm_ablate.config.expand import LoadedExperiment, ResolvedArm
    from vlm_ablate.models.accounting import ModelPlan

Plans = Mapping[str, "ModelPlan"]

_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def header(loaded: LoadedExperiment) -> Iterable[Any]:
    """What the experiment asks, at which scale, and what stands in for what the paper names."""
    experiment, scale = loaded.experiment, loaded.scale
    yield Text(f"{experiment.name}: {experiment.title}", style="bold")
    if experiment.question:
        yield Text(experiment.question)
    runs = len(loaded.arms) * len(experiment.seeds)
    seeds = ", ".join(map(str, experiment.seeds))
    yield Text(f"scale {scale.name}: {scale.summary}".rstrip(": "))
    yield Text(f"{len(loaded.arms)} arms x seeds {seeds} = {runs} runs")
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


def tables(loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans, mfu: float) -> Iterable[Any]:
    """Size and costs of each arm, parameters by part, and the modules that carry adapters."""
    planned = [arm for arm in arms if arm.name in plans]
    yield _sizes(loaded, planned, plans)
    yield _costs(planned, plans, mfu)
    sample = next(iter(plans.values())).sample
    yield Text(
        f"FLOPs of a sample with {sample.images} image and {sample.text_tokens} text tokens; memory with AdamW"
        + (f"; GPU-hours on H100s at {mfu:.0%} of their bf16 peak." if _timed(plans) else "."),
        style="dim",
    )
    yield Text()
    yield _by_part(planned, plans)
    yield from _matched(planned, plans)


def _grid(title: str, *columns: str) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    grid.add_column("arm", style="cyan", no_wrap=True)
    for column in columns:
        grid.add_column(column, justify="right")
    return grid


def _sizes(loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    columns = ("total\nparameters", "trainable\nparameters", "visual tokens\nan image", "text-stream\ntokens an image")
    grid = _grid("Size [dim not bold](the paper's number in brackets)[/]", *columns)
    for arm in arms:
        plan, row = plans[arm.name], paper_row(loaded, arm) or {}
        grid.add_row(
            arm.name,
            _beside(short_count(plan.total_parameters), row.get("total_params")),
            _beside(short_count(plan.last.trainable_parameters), row.get("trainable_params")),
            str(plan.visual_tokens_per_image),
            str(plan.text_tokens_per_image),
        )
    return grid


def _costs(arms: Sequence[ResolvedArm], plans: Plans, mfu: float) -> Table:
    timed = _timed(plans)
    columns = ("forward\nFLOPs", "training\nFLOPs", "peak\nmemory", "bytes of a\ncheckpoint")
    grid = _grid("Costs", *columns, *(("GPU-hours\na run",) if timed else ()))
    for arm in arms:
        plan, stage = plans[arm.name], plans[arm.name].last
        cells = (
            flops(plan.flops),
            flops(stage.flops),
            size(max(s.memory.peak for s in plan.stages.values())),
            size(stage.checkpoint_bytes),
        )
        hours = sum(s.gpu_hours(mfu=mfu) for s in plan.stages.values())
        spent = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        grid.add_row(arm.name, *cells, *((spent,) if timed else ()))
    return grid


def _timed(plans: Plans) -> bool:
    """Whether runs are long enough for a GPU's hours to mean anything."""
    return any(stage.gpu_hours() >= 0.01 for plan in plans.values() for stage in plan.stages.values())


def _by_part(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    parts = [p for p in plans[arms[0].name].last.total if any(plans[a.name].last.total[p] for a in arms)]
    title = "Parameters by part [dim not bold](* trained; in brackets how many are, where not all)[/]"
    staged = any(len(plans[arm.name].stages) > 1 for arm in arms)
    grid = _grid(title, *(p.replace("_", "\n") for p in parts), *(("trainable",) if staged else ()))
    for arm in arms:
        for stage in plans[arm.name].stages.values():
            name = f"{arm.name} {stage.name}" if staged else arm.name
            sums = (short_count(stage.trainable_parameters),) if staged else ()
            grid.add_row(name, *(_part(stage.total[p], stage.trainable[p]) for p in parts), *sums)
    return grid


def _matched(arms: Sequence[ResolvedArm], plans: Plans) -> Iterable[Text]:
    """Modules that carry adapters: how many, and the last part of their paths."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        for stage in plans[arm.name].stages.values():
            for backbone, modules in stage.matched.items():
                if modules:
                    kinds = ", ".join(dict.fromkeys(m.rpartition(".")[2] for m in modules))
                    found.setdefault(f"{backbone}: {len(modules)} modules ({kinds})", []).append(arm.name)
    for text, names in found.items():
        yield Text.assemble(("adapters on ", "bold"), text, (f"  in {', '.join(dict.fromkeys(names))}", "dim"))
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
    ours = {"total": plan.total_parameters, "trainable": plan.last.trainable_parameters}
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
        "tokens per image in the text stream": {n: str(p.text_tokens_per_image) for n, p in plans.items()},
        "trainable parameters": {n: short_count(p.last.trainable_parameters) for n, p in plans.items()},
    }
    groups = {what: group_by_value(values) for what, values in kinds.items()}
    return [f"the arms do not have the same {what}: {groups_text(g)}" for what, g in groups.items() if len(g) > 1]


def paper_row(loaded: LoadedExperiment, arm: ResolvedArm) -> dict[str, Any] | None:
    """The paper's row that the arm stands for."""
    paper = loaded.experiment.paper
    return find_row(paper.key, arm.cell) if paper and arm.cell else None


def parse_count(text: str) -> float:
    """`"740M"` -> 740e6."""
    return float(text[:-1]) * _UNITS[text[-1]]


def rounding(text: str) -> float:
    """Half of the last digit that counts: `"7.6B"` -> 0.05e9; a third digit that is zero does not: `"740M"` -> 5e6."""
    digits = text[:-1]
    decimals = len(digits.partition(".")[2])
    trailing = 0 if decimals else min(len(digits) - len(digits.rstrip("0")), max(len(digits) - 2, 0))
    return 0.5 * 10.0 ** (trailing - decimals) * _UNITS[text[-1]]


def flops(value: float) -> str:
    """`1.23e12` -> `1.2 T`."""
    for unit, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 1000 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value:.0f} B"


def _part(total: int, trainable: int) -> str:
    if trainable == total:
        return f"{short_count(total)}*" if total else "-"
    return short_count(total) + (f" ({short_count(trainable)})" if trainable else "")


def _beside(ours: str, paper: str | None) -> str:
    return f"{ours} [{paper}]".replace("[", "\\[") if paper else ours


def _common(tables: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Entries of any arm, once each."""
    return list(dict.fromkeys(item for table in tables for item in table.items()))
