"""`vlm-ablate plan FILE`: everything about an experiment that can be known before paying for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import ArmsOption, ScaleOption, SetOption
from vlm_ablate.errors import VlmAblateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_ablate.config.expand import ResolvedArm
    from vlm_ablate.models.accounting import ModelPlan


def plan(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "laptop",
    arms: ArmsOption = None,
    sets: SetOption = None,
    shards: Annotated[int, typer.Option(min=1, help="Devices that share weights, gradients and moments.")] = 1,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Share of an H100's peak for the GPU-hours.")] = 0.4,
) -> None:
    """Arms as a diff of the base, warnings, and each arm's parameters, tokens, FLOPs, memory and bytes. No weights."""
    from vlm_ablate.cli.console import comma_list, err, out, warn
    from vlm_ablate.config.expand import load_experiment

    loaded = load_experiment(file, scale=scale, sets=sets or [])
    chosen = loaded.select(comma_list(arms))
    with err().status("planning on the meta device"):
        plans, errors = plan_arms(chosen, shards)
    from vlm_ablate.cli import plan_view as view

    console = out()
    console.print(*view.header(loaded), sep="\n")
    console.print(*view.diffs(loaded, chosen), sep="\n")
    if plans:
        console.print(*view.tables(loaded, chosen, plans, mfu), sep="\n")
    console.print(*view.notes(loaded, chosen, plans), sep="\n")
    warn([*loaded.warnings, *view.plan_warnings(plans)])
    if errors:
        failed = VlmAblateError("\n".join(f"{arm}: {error.message}" for arm, error in errors.items()))
        failed.hint = next((e.hint for e in errors.values() if e.hint), None)
        raise failed


def plan_arms(arms: Sequence[ResolvedArm], shards: int = 1) -> tuple[dict[str, ModelPlan], dict[str, VlmAblateError]]:
    """Plans by arm, and what is wrong with the arms that cannot be planned."""
    _quiet()
    from vlm_ablate.models.accounting import Planner

    planner = Planner(shards=shards)
    plans: dict[str, ModelPlan] = {}
    errors: dict[str, VlmAblateError] = {}
    for arm in arms:
        try:
            plans[arm.name] = planner.plan(arm.config)
        except VlmAblateError as error:
            errors[arm.name] = error
    return plans, errors


def _quiet() -> None:
    """Keep the libraries' remarks about configurations out of the plan."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
