"""What a run costs, known before any weight is read: parameters, tokens, FLOPs, memory, bytes, GPU-hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlm_ablate.accounting.features import CPU_FLOPS, GPU_FLOPS, FeaturePlan, Lengths, plan_features
from vlm_ablate.accounting.fits import check_fits, shards_of
from vlm_ablate.accounting.gpus import GPUS, Gpu
from vlm_ablate.accounting.plans import (
    MemoryPlan,
    ModelPlan,
    SampleShape,
    Sharding,
    StagePlan,
    check_lengths,
    cut_images,
    short_count,
)

if TYPE_CHECKING:
    from vlm_ablate.accounting.plan import Planner, plan_model, visual_tokens_of

__all__ = [
    "CPU_FLOPS",
    "GPUS",
    "GPU_FLOPS",
    "FeaturePlan",
    "Gpu",
    "Lengths",
    "MemoryPlan",
    "ModelPlan",
    "Planner",
    "SampleShape",
    "Sharding",
    "StagePlan",
    "check_fits",
    "check_lengths",
    "cut_images",
    "plan_features",
    "plan_model",
    "shards_of",
    "short_count",
    "visual_tokens_of",
]


def __getattr__(name: str) -> Any:
    """What plans anew, imported when it is asked for: it needs torch, which reading a plan does not."""
    if name not in ("Planner", "plan_model", "visual_tokens_of"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vlm_ablate.accounting import plan

    return getattr(plan, name)
