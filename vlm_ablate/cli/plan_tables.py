"""The tables of a plan: size, costs, and where parameters, FLOPs and memory go, as Rich renderables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from vlm_ablate.accounting import short_count
from vlm_ablate.config.diff import group_by_value, groups_text
from vlm_ablate.config.execution import is_continuable
from vlm_ablate.papers import find_row

if TYPE_CHECKING:
    from vlm_ablate.accounting import FeaturePlan, Gpu, ModelPlan, StagePlan
    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.config.loading import ResolvedArm
    from vlm_ablate.config.run_config import RunStage

Plans = Mapping[str, "ModelPlan"]


@dataclass(frozen=True)
class PlanOptions:
    """What the tables are shown for."""

    gpu: Gpu
    mfu: float
    """Share of the GPU's peak that is put to use."""
    shards: int | None = None
    """Devices of a group; None: as each arm is launched."""
    sharding: str = "zero3"
    modules: bool = False
    """Whether to list the modules that carry adapters."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Arm -> why `run` would not launch it so; of these no GPU-hours are told."""


def tables(loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> Iterable[Any]:
    """Size and costs of each arm, all by part, and modules that carry adapters; of what trains nothing, its size."""
    planned = [arm for arm in arms if arm.name in plans]
    yield _sizes(loaded, planned, plans)
    yield Text(_views(planned, plans), style="dim")
    yield Text()
    if not any(plans[arm.name].stages for arm in planned):
        return
    yield _costs(planned, plans, shown)
    yield Text(_sample(planned, plans, shown), style="dim")
    yield Text(_disk(planned, plans), style="dim")
    yield Text()
    yield _by_part(planned, plans)
    yield _flops(planned, plans)
    yield _memory(planned, plans)
    yield Text(_held(planned, plans, shown), style="dim")
    yield Text(_features(planned, plans, shown), style="dim")
    yield Text()
    yield from _matched(planned, plans, shown)


def _views(arms: Sequence[ResolvedArm], plans: Plans) -> str:
    """What an image becomes, arms that agree together."""
    from vlm_ablate.accounting.plans import sides
    from vlm_ablate.data.images import tile_grid, views_of_size

    found: dict[str, str] = {}
    for arm in arms:
        shown = {name: stage.data.image_by_step() for name, stage in arm.config.stages.items()}
        for name, by_step in (shown or {"": {0: arm.config.shown_image}}).items():
            before = ""
            for step, config in by_step.items():
                width, height = sides(config, plans[arm.name].sample)
                sizes = views_of_size(width, height, config)
                rows, columns = tile_grid(width, height, config)
                tiles = f"{rows} x {columns} tiles and the whole, each " if rows else ""
                crops = "4 crops and the whole, the largest " if config.split == "crops" else ""
                where = arm.name + f" {name}" * (len(arm.config.stages) > 1) + f" from step {step}" * bool(step)
                text = f"{width} x {height} px -> {tiles}{crops}{max(w for _, w in sizes)} x {max(sizes)[0]} px"
                stage = plans[arm.name].stages.get(name)
                count = stage.image_tokens.get(config.size) if stage else plans[arm.name].placeholders_per_image
                if count:
                    text += f", {count:,} tokens"
                if text != before:
                    found[where] = before = text
    groups = group_by_value(found)
    return "An image of " + (groups_text(groups) if len(groups) > 1 else next(iter(found.values()))) + "."


def _sample(arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> str:
    sample = next(iter(plans.values())).sample
    images = f"{sample.images} image{'s' * (sample.images > 1)}"
    text = f"FLOPs of a sample with {images} and {sample.text_tokens} text tokens; memory of a device, with two moments"
    if not timed(plans):
        return text + "."
    peak = f"{shown.gpu.flops / 1e12:.0f} T bf16 FLOPs/s"
    stages = [stage for plan in plans.values() for stage in plan.stages.values()]
    rows = " or ".join(map(str, sorted({max(stage.row_tokens, round(stage.sequence)) for stage in stages})))
    hfu = shown.mfu * max(stage.hardware_share for stage in stages)
    hours = f"GPU-hours on {shown.gpu.title} at {shown.mfu:.0%} of {peak}"
    counted = "MFU: the model's own operations, without what checkpointing computes again, half of causal attention"
    full = f"of training alone, for rows that are full: {rows} tokens."
    told = f"{text}; {hours} ({counted}; HFU up to {hfu:.0%}), {full}"
    slow = any(stage.precision == "fp32" for arm in arms for stage in arm.config.stages.values())
    return told + " Stages in fp32 take many times their GPU-hours: these are told for bf16." * slow


def _disk(arms: Sequence[ResolvedArm], plans: Plans) -> str:
    """What a run takes of the disk: at most while it trains, and what stays. Arms that agree stand together."""
    found: dict[str, str] = {}
    for arm in arms:
        stays = most = 0
        for name, stage in arm.config.stages.items():
            plan = plans[arm.name].stages[name]
            next_written = max(plan.checkpoint_bytes, plan.weights_bytes)
            most = max(most, stays + CHECKPOINTS_KEPT * plan.checkpoint_bytes + next_written)
            kept = is_continuable(stage, arm.config.execution.of_stage(name))
            stays += plan.weights_bytes + kept * plan.checkpoint_bytes
        found[arm.name] = f"{size(max(most, stays))} while it trains, of which {size(stays)} stay"
    groups = group_by_value(found)
    told = groups_text(groups) if len(groups) > 1 else next(iter(found.values()))
    return f"Disk of a run: {told}: the weights of every stage, and the last checkpoint of stages at a constant rate."


CHECKPOINTS_KEPT = 2
"""Of a stage that trains, while the next is written, or its weights are."""


def _titled(title: str, note: str) -> Text:
    return Text.assemble(f"{title} ", (note, "dim not bold"))


def _grid(title: str | Text, *columns: str) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    grid.add_column("arm", style="cyan", no_wrap=True)
    for column in columns:
        grid.add_column(column, justify="right")
    return grid


def _sizes(loaded: LoadedExperiment, arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    columns = ("total\nparameters", "trainable\nparameters", "visual tokens\nan image", "text-stream\ntokens an image")
    grid = _grid(_titled("Size", "(the paper's number in brackets)"), *columns)
    for arm in arms:
        plan, row = plans[arm.name], paper_row(loaded, arm) or {}
        grid.add_row(
            arm.name,
            _beside(short_count(plan.total_parameters), row.get("total_params")),
            _beside(short_count(plan.trainable_parameters), row.get("trainable_params")),
            str(plan.visual_tokens_per_image),
            str(plan.placeholders_per_image),
        )
    return grid


def _costs(arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> Table:
    hours_too = timed(plans)
    columns = ("forward\nFLOPs", "training\nFLOPs", "peak\nmemory", "bytes of a\ncheckpoint")
    grid = _grid("Costs", *columns, *(("GPU-hours\na run",) if hours_too else ()))
    for arm, name, plan, stage in _rows(arms, plans):
        cells = (flops(plan.flops), flops(stage.flops), size(stage.memory.peak), size(stage.checkpoint_bytes))
        hours = stage.gpu_hours(mfu=shown.mfu, peak=shown.gpu.flops)
        spent = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        if arm in shown.refused:
            spent = "-"
        grid.add_row(name, *cells, *((spent,) if hours_too else ()))
    return grid


def _rows(arms: Sequence[ResolvedArm], plans: Plans) -> Iterable[tuple[str, str, ModelPlan, StagePlan]]:
    """(arm, name of the row, plan, stage) of each stage of each arm; a row names its stage if any arm has several."""
    staged = any(len(plans[arm.name].stages) > 1 for arm in arms)
    for arm in arms:
        for stage in plans[arm.name].stages.values():
            yield arm.name, (f"{arm.name} {stage.name}" if staged else arm.name), plans[arm.name], stage


def _flops(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    first = next(iter(plans.values()))
    parts = [p for p in first.forward_flops if any(plans[arm.name].forward_flops[p] for arm in arms)]
    title = _titled("FLOPs of a sample by part", "(forward / training)")
    grid = _grid(title, *(p.replace("_", "\n") for p in parts))
    for _, name, plan, stage in _rows(arms, plans):
        pairs = ((plan.forward_flops[p], stage.training_flops[p]) for p in parts)
        grid.add_row(name, *(f"{flops(a)} / {flops(b)}" if a else "-" for a, b in pairs))
    return grid


_HOLDS: dict[str, Callable[[Any], int]] = {
    "weights": lambda m: m.weights,
    "gradients": lambda m: m.gradients,
    "moments": lambda m: m.moments,
    "kept\nactivations": lambda m: m.activations,
    "transient": lambda m: m.transient,
    "copies of\nweights": lambda m: m.copies,
    "gathered": lambda m: m.gathered,
}


def _memory(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    rows = list(_rows(arms, plans))
    holds = {title: of for title, of in _HOLDS.items() if any(of(stage.memory) for *_, stage in rows)}
    grid = _grid("Memory of a device by what it holds", *holds, "peak")
    for _, name, _, stage in rows:
        grid.add_row(name, *(size(of(stage.memory)) for of in holds.values()), size(stage.memory.peak))
    return grid


def _held(arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> str:
    """What the memory depends on, arms and stages that agree together."""
    from vlm_ablate.accounting.fits import micro_batch, shards_of

    found: dict[str, str] = {}
    for arm in arms:
        for name, stage in arm.config.stages.items():
            execution = arm.config.execution.of_stage(name)
            shards = shown.shards or shards_of(execution)
            micro = micro_batch(stage, execution, shards)
            tokens = max(stage.data.sequence_length, round(plans[arm.name].stages[name].sequence))
            found[f"{arm.name} {name}"] = (
                f"{micro} x {tokens} tokens{_packed(stage, plans[arm.name].stages[name])}, {stage.precision}"
                f", {'with' if execution.gradient_checkpointing else 'no'} checkpointing; "
                + (f"{shown.sharding} over {shards} devices" if shards > 1 else "not sharded")
            )
    groups = group_by_value(found)
    held = groups_text(groups) if len(groups) > 1 else next(iter(found.values()))
    return f"Micro-batch: {held}. Gradients and activations do not peak together without accumulation."


def _packed(stage: RunStage, plan: StagePlan) -> str:
    """How full packed rows are with samples like the plan's."""
    if stage.data.packing == "none":
        return ""
    fill = min(1.0, plan.row_samples * plan.sequence / stage.data.sequence_length)
    return f" packed with {plan.row_samples:.3g} samples ({fill:.0%} full)"


def _features(arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> str:
    """Whether the output of frozen encoders is kept, and why, arms and stages that agree together."""
    from vlm_ablate.accounting import CPU_FLOPS, plan_features

    on_gpu = timed(plans)
    reached = shown.mfu * shown.gpu.flops if on_gpu else CPU_FLOPS
    device = f"{shown.gpu.title} at {shown.mfu:.0%}" if on_gpu else "a CPU"
    found: dict[str, str] = {}
    for arm in arms:
        for name, stage in arm.config.stages.items():
            execution, plan = arm.config.execution.of_stage(name), plans[arm.name].stages[name]
            if shown.shards:
                execution = execution.model_copy(update={"devices": shown.shards, "nodes": None})
            kept = plan_features(stage, execution, plan, flops=reached)
            found[f"{arm.name} {name}"] = f"{_verdict(kept)} ({kept.reason})"
    groups = group_by_value(found)
    told = groups_text(groups) if len(groups) > 1 else next(iter(found.values()))
    seen = "Output of the encoder, for steps and evaluations that see a picture again"
    return f"{seen}, on {device}, with samples like the plan's (a run decides by its device and first samples): {told}."


def _verdict(kept: FeaturePlan) -> str:
    if kept.on:
        return "kept"
    return f"kept where samples have at most {kept.most:.0f} tokens a picture" if kept.most >= 1 else "not kept"


def timed(plans: Plans) -> bool:
    """Whether runs are long enough for a GPU's hours to mean anything."""
    return any(stage.gpu_hours() >= 0.01 for plan in plans.values() for stage in plan.stages.values())


def _by_part(arms: Sequence[ResolvedArm], plans: Plans) -> Table:
    totals = [plan.last.total for arm in arms if (plan := plans[arm.name]).stages]
    parts = [p for p in (totals[0] if totals else ()) if any(total[p] for total in totals)]
    title = _titled("Parameters by part", "(* trained; in brackets how many are, where not all)")
    staged = any(len(plans[arm.name].stages) > 1 for arm in arms)
    grid = _grid(title, *(p.replace("_", "\n") for p in parts), *(("trainable",) if staged else ()))
    for _, name, _, stage in _rows(arms, plans):
        sums = (short_count(stage.trainable_parameters),) if staged else ()
        grid.add_row(name, *(_part(stage.total[p], stage.trainable[p]) for p in parts), *sums)
    return grid


def _matched(arms: Sequence[ResolvedArm], plans: Plans, shown: PlanOptions) -> Iterable[Text]:
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
        first, *rest = text.split("\n")
        yield Text.assemble(("adapters on ", "bold"), first, (f"  in {', '.join(dict.fromkeys(names))}", "dim"))
        yield from map(Text, rest)
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


def paper_row(loaded: LoadedExperiment, arm: ResolvedArm) -> dict[str, Any] | None:
    """The paper's row that the arm stands for."""
    paper = loaded.experiment.paper
    return find_row(paper.key, arm.cell) if paper and arm.cell else None


def flops(value: float) -> str:
    """`1.23e12` -> `1.2 T`."""
    for unit, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= 0.9995 * factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def _three(value: float) -> str:
    """Three digits that count, or all before the point; never an exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _part(total: int, trainable: int) -> str:
    if trainable == total:
        return f"{short_count(total)}*" if total else "-"
    return short_count(total) + (f" ({short_count(trainable)})" if trainable else "")


def _beside(ours: str, paper: str | None) -> str:
    return f"{ours} [{paper}]" if paper else ours
