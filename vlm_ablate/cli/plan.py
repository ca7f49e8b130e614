"""`vlm-ablate plan FILE`: everything about an experiment that can be known before paying for it."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlm_ablate.cli.console import (
    ArmsOption,
    HomeOption,
    HubOption,
    ScaleOption,
    SeedsOption,
    SetOption,
    few_collections,
    usage_error,
)
from vlm_ablate.errors import VlmAblateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vlm_ablate.accounting import ModelPlan, Planner, SampleShape, Sharding
    from vlm_ablate.config.loading import ResolvedArm
    from vlm_ablate.config.run_config import RunConfig
    from vlm_ablate.home import Home


LONGEST_SIDE = 20_000
"""Pixels of a picture's side that are planned for; larger ones are no pictures that anybody reads whole."""

Gpu = Literal["a100", "h100", "h200", "b200", "l40s", "rtx4090"]


@few_collections()
def plan(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "laptop",
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    sets: SetOption = None,
    image: Annotated[str | None, typer.Option(metavar="WxH", help="Image size in pixels, e.g. 1456x1092.")] = None,
    images: Annotated[
        int, typer.Option(min=1, max=10_000, help="Images of the sample that FLOPs are counted for.")
    ] = 1,
    text_tokens: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Its tokens beside the image placeholders.")
    ] = 128,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Sequences a forward pass. Default: the file's.")
    ] = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="Instead of the file's.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Gradient checkpointing of the layers.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Devices of a group that shares what --sharding says.",
            show_default="as run would",
        ),
    ] = None,
    sharding: Annotated[
        Literal["zero1", "zero2", "zero3"],
        typer.Option(help="Shared: moments (zero1), and gradients (zero2), and weights (zero3: FSDP)."),
    ] = "zero3",
    gpu: Annotated[Gpu, typer.Option(help="GPU of the GPU-hours.")] = "h100",
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Share of its peak that is put to use.")] = 0.4,
    modules: Annotated[bool, typer.Option("--modules", help="List the modules that carry adapters.")] = False,
    home: HomeOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Arms as a diff of the base, warnings, and each arm's parameters, tokens, FLOPs, memory and bytes. No weights.

    Example: vlm-ablate plan idefics2/t03_architecture --scale paper --gpu h100
    """
    from vlm_ablate.cli.console import arm_list, err, out, seed_list, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.launch.promises import refused

    set_hub_access(allow_hub)
    place = open_home(home)
    fields = {
        "execution.micro_batch_size": micro_batch,
        "stages.*.precision": precision,
        "execution.gradient_checkpointing": checkpointing,
        "execution.stages.*.micro_batch_size": micro_batch,
        "execution.stages.*.gradient_checkpointing": checkpointing,
    }
    asked = [f"{field}={value}" for field, value in fields.items() if value is not None]
    width, height = _sides(image)
    loaded = load_experiment(file, scale=scale, sets=[*(sets or []), *asked], arms=arm_list(arms))
    numbers, chosen = seed_list(seeds), loaded.select(None)
    with err().status("planning on the meta device"):
        from vlm_ablate.accounting import GPUS, SampleShape, Sharding
        from vlm_ablate.evaluation.material import look_over

        device = GPUS[gpu]
        sample = SampleShape(images=images, text_tokens=text_tokens, width=width, height=height)
        plans, errors = plan_arms(chosen, sample=sample, shards=shards, sharding=Sharding(sharding), home=place)
        material = look_over({arm.name: arm.config for arm in chosen})
    problems = {arm.name: refused(arm.config, shards=shards, sharding=sharding) for arm in chosen}
    unlaunched = {name: why for name, why in problems.items() if why}
    from vlm_ablate.cli import plan_tables
    from vlm_ablate.cli import plan_view as view

    console = out()
    console.print(*view.header(loaded, numbers), sep="\n")
    console.print(*view.diffs(loaded, chosen), sep="\n")
    if plans:
        shown = plan_tables.PlanOptions(device, mfu, shards, sharding, modules, unlaunched)
        console.print(*plan_tables.tables(loaded, chosen, plans, shown), sep="\n")
    console.print(*view.notes(loaded, chosen, plans), sep="\n")
    warn([*loaded.warnings, *view.plan_warnings(plans), *view.memory_warnings(plans, device)])
    warn(view.length_warnings(plans, {arm.name: arm.config for arm in chosen}))
    warn([*view.launch_warnings(unlaunched), *material.warnings()])
    wrong = [VlmAblateError(f"{arm}: {error.message}", hint=error.hint) for arm, error in errors.items()]
    if found := material.error():
        wrong.append(found)
    if wrong:
        hint = "; ".join(dict.fromkeys(error.hint for error in wrong if error.hint))
        raise VlmAblateError("\n".join(error.message for error in wrong), hint=hint or None)


def _sides(text: str | None) -> tuple[int | None, int | None]:
    """`"1456x1092"` -> (1456, 1092)."""
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x")
    sides = [int(side) if re.fullmatch("[0-9]{1,6}", side) else 0 for side in (width, height)]
    if not all(0 < side <= LONGEST_SIDE for side in sides):
        raise usage_error(
            f"--image {text[:60]}: not a size in pixels, of at most {LONGEST_SIDE:,} a side",
            "write WIDTHxHEIGHT, e.g. 1456x1092",
        )
    return sides[0], sides[1]


def plan_arms(
    arms: Sequence[ResolvedArm],
    *,
    sample: SampleShape,
    shards: int | None = None,
    sharding: Sharding,
    home: Home | None = None,
) -> tuple[dict[str, ModelPlan], dict[str, VlmAblateError]]:
    """Plans by arm, and what is wrong with the arms that cannot be planned. What was planned before is not again.

    Args:
        shards: devices of a group; None: as each arm is launched.
        home: where plans are kept, and the runs that arms start from are; None: the default one.
    """
    from vlm_ablate.accounting import check_lengths, shards_of
    from vlm_ablate.home import Home
    from vlm_ablate.runs.plans import KeptPlans
    from vlm_ablate.runs.starts import placed_run

    @cache
    def planner(devices: int) -> Planner:
        _quiet()
        from vlm_ablate.accounting import Planner

        return Planner(sample=sample, shards=devices, sharding=sharding)

    home = home or Home.default()
    plans: dict[str, ModelPlan] = {}
    errors: dict[str, VlmAblateError] = {}
    for arm in arms:
        try:
            devices = shards or shards_of(arm.config.execution)
            kept = KeptPlans(sample, devices, sharding, home)
            found = kept.plan(placed_run(arm.config, home), partial(_made, planner, devices))
            check_lengths(found, arm.config)
            plans[arm.name] = found
        except VlmAblateError as error:
            errors[arm.name] = error
    return plans, errors


def _made(planner: Callable[[int], Planner], devices: int, config: RunConfig) -> ModelPlan:
    """A plan made now; the planner is imported when the first is."""
    return planner(devices).plan(config)


def _quiet() -> None:
    """Keep the libraries' remarks about configurations out of the plan."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
