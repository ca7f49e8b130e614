"""How a plan is shown: header, diffs, tables, notes and warnings, as Rich renderables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    from vlm_ablate.models.accounting import Gpu, ModelPlan, StagePlan

Plans = Mapping[str, "ModelPlan"]


@dataclass(frozen=True)
class Shown:
    """What the tables are shown for."""

    gpu: Gpu
    mfu: float
    """Share of the GPU's peak that is put to use."""
    shards: int = 1
    sharding: str = "zero3"
    modules: bool = False
    """Whether to list the modules that carry adapters."""


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


def tables(
    loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans, shown: Shown
) -> Iterable[Any]:
    """Size and costs of each arm, all by part, and the modules that carry adapters."""
    planned = [arm for arm in arms if arm.name in plans]
    yield _sizes(loaded, planned, plans)
    yield Text(_views(planned, plans), style="dim")
    yield Text()
    yield _costs(planned, plans, shown)
    yield Text(_sample(plans, shown), style="dim")
    yield Text()
    yield _by_part(planned, plans)
    yield _flops(planned, plans)
    yield _memory(planned, plans)
    yield Text(_held(planned, plans, shown), style="dim")
    yield Text()
    yield from _matched(planned, plans, shown)


def _views(arms: Sequence[ResolvedArm], plans: Plans) -> str:
    """What an image becomes, arms that agree together."""
    from vlm_ablate.data.images import tile_grid, views_of_size
    from vlm_ablate.models.accounting.measure import sides

    found: dict[str, str] = {}
    for arm in arms:
        config = arm.config.data.image
        width, height = sides(config, plans[arm.name].sample)
        sizes = views_of_size(width, height, config)
        rows, columns = tile_grid(width, height, config)
        tiles = f"{rows} x {columns} tiles and the whole, each " if rows else ""
        crops = "4 crops and the whole, the largest " if config.split == "crops" else ""
        found[arm.name] = f"{width} x {height} px -> {tiles}{crops}{max(w for _, w in sizes)} x {max(sizes)[0]} px"
    groups = group_by_value(found)
    return "An image of " + (groups_text(groups) if len(groups) > 1 else next(iter(found.values()))) + "."


def _sample(plans: Plans, shown: Shown) -> str:
    sample = next(iter(plans.values())).sample
    images = f"{sample.images} image{'s' * (sample.images > 1)}"
    text = f"FLOPs of a sample with {images} and {sample.text_tokens} text tokens; memory of a device, with AdamW"
    if not _timed(plans):
        return text + "."
    peak = f"{shown.gpu.flops / 1e12:.0f} T bf16 FLOPs/s"
    return f"{text}; GPU-hours on {shown.gpu.title} at {shown.mfu:.0%} of {peak}."


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


def _costs(arms: Sequence[ResolvedArm], plans: Plans, shown: Shown) -> Table:
    timed = _timed(plans)
    columns = ("forward\nFLOPs", "training\nFLOPs", "peak\nmemory", "bytes of a\ncheckpoint")
    grid = _grid("Costs", *columns, *(("GPU-hours\na run",) if timed else ()))
    for name, plan, stage in _rows(arms, plans):
        cells = (flops(plan.flops), flops(stage.flops), size(stage.memory.peak), size(stage.checkpoint_bytes))
        hours = stage.gpu_hours(mfu=shown.mfu, peak=shown.gpu.flops)
        spent = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        grid.add_row(name, *cells, *((spent,) if timed else ()))
    return grid


def _rows(arms: Sequence[ResolvedArm], plans: Plans) -> Iterable[tuple[str, ModelPlan, StagePlan]]:
    """(name, plan, stage) of each stage of each arm; stages are named where there are several."""
    staged = any(len(plans[arm.name].stages) > 1 for arm in arms)
    for arm in arms:
        for stage in plans[arm.name].stages.values():
            yield (f"{arm.name} {stage.name}" if staged else arm.name), plans[arm.name], stage


def _flops(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    first = next(iter(plans.values()))
    parts = [p for p in first.forward_flops if any(plans[arm.name].forward_flops[p] for arm in arms)]
    title = "FLOPs of a sample by part [dim not bold](forward / training)[/]"
    grid = _grid(title, *(p.replace("_", "\n") for p in parts))
    for name, plan, stage in _rows(arms, plans):
        pairs = ((plan.forward_flops[p], stage.training_flops[p]) for p in parts)
        grid.add_row(name, *(f"{flops(a)} / {flops(b)}" if a else "-" for a, b in pairs))
    return grid


_HOLDS: dict[str, Callable[[Any], int]] = {
    "weights": lambda m: m.weights,
    "gradients": lambda m: m.gradients,
    "AdamW": lambda m: m.moments,
    "kept\nactivations": lambda m: m.activations,
    "transient": lambda m: m.transient,
    "copies of\nweights": lambda m: m.copies,
    "gathered": lambda m: m.gathered,
}


def _memory(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    rows = list(_rows(arms, plans))
    holds = {title: of for title, of in _HOLDS.items() if any(of(stage.memory) for *_, stage in rows)}
    grid = _grid("Memory of a device by what it holds", *holds, "peak")
    for name, _, stage in rows:
        grid.add_row(name, *(size(of(stage.memory)) for of in holds.values()), size(stage.memory.peak))
    return grid


def _held(arms: Sequence[ResolvedArm], plans: Plans, shown: Shown) -> str:
    """What the memory depends on, arms and stages that agree together."""
    found: dict[str, str] = {}
    for arm in arms:
        for name, stage in arm.config.stages.items():
            micro = stage.micro_batch_size or stage.batch_size
            found[f"{arm.name} {name}"] = (
                f"{micro} x {max(arm.config.data.sequence_length, plans[arm.name].sequence)} tokens, {stage.precision}"
                f", {'with' if stage.gradient_checkpointing else 'no'} checkpointing"
            )
    groups = group_by_value(found)
    held = groups_text(groups) if len(groups) > 1 else next(iter(found.values()))
    shared = f"{shown.sharding} over {shown.shards} devices" if shown.shards > 1 else "not sharded"
    return f"Micro-batch: {held}; {shared}. Gradients and activations do not peak together without accumulation."


def _timed(plans: Plans) -> bool:
    """Whether runs are long enough for a GPU's hours to mean anything."""
    return any(stage.gpu_hours() >= 0.01 for plan in plans.values() for stage in plan.stages.values())


def _by_part(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    parts = [p for p in plans[arms[0].name].last.total if any(plans[a.name].last.total[p] for a in arms)]
    title = "Parameters by part [dim not bold](* trained; in brackets how many are, where not all)[/]"
    staged = any(len(plans[arm.name].stages) > 1 for arm in arms)
    grid = _grid(title, *(p.replace("_", "\n") for p in parts), *(("trainable",) if staged else ()))
    for name, _, stage in _rows(arms, plans):
        sums = (short_count(stage.trainable_parameters),) if staged else ()
        grid.add_row(name, *(_part(stage.total[p], stage.trainable[p]) for p in parts), *sums)
    return grid


def _matched(arms: Sequence[ResolvedArm], plans: Plans, shown: Shown) -> Iterable[Text]:
    """Modules that carry adapters: how many, and the last part of their paths, or the paths."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        for stage in plans[arm.name].stages.values():
            for backbone, modules in stage.matched.items():
                if modules:
                    kinds = ", ".join(dict.fromkeys(m.rpartition(".")[2] for m in modules))
                    paths = "".join(f"\n    {path}" for path in _patterns(modules)) if shown.modules else ""
                    found.setdefault(f"{backbone}: {len(modules)} modules ({kinds}){paths}", []).append(arm.name)
    for text, names in found.items():
        first, *paths = text.split("\n")
        yield Text.assemble(("adapters on ", "bold"), first, (f"  in {', '.join(dict.fromkeys(names))}", "dim"))
        yield from map(Text, paths)
    yield Text()


def _patterns(modules: Iterable[str]) -> list[str]:
    """`model.layers.0-31.self_attn.q_proj (32)`: paths that differ only in the number of the layer, together."""
    layers: dict[str, list[int]] = {}
    for module in modules:
        number = re.search(r"(?<=\.)\d+(?=\.)", module)
        pattern = module[: number.start()] + "*" + module[number.end() :] if number else module
        layers.setdefault(pattern, []).extend([int(number[0])] if number else [])
    return [f"{path.replace('*', _span(n), 1)} ({len(n)})" if n else path for path, n in layers.items()]


def _span(numbers: Sequence[int]) -> str:
    """`0-31`, or one by one where some are missing."""
    whole = len(numbers) == max(numbers) - min(numbers) + 1
    return f"{min(numbers)}-{max(numbers)}" if whole else ",".join(map(str, numbers))


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


def memory_warnings(plans: Plans, gpu: Gpu) -> list[str]:
    """Stages of long runs that do not fit a GPU of that kind."""
    if not _timed(plans):
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
    return [f"more than the {size(gpu.memory)} of {gpu.title}: {where}; see --shards, --micro-batch, --checkpointing"]


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
