"""What a run costs, known before any weight is read: parameters, tokens, FLOPs, memory, bytes, GPU-hours."""

from vlm_ablate.accounting.features import CPU_FLOPS, GPU_FLOPS, FeaturePlan, Lengths, plan_features
from vlm_ablate.accounting.gpus import GPUS, Gpu
from vlm_ablate.accounting.measure import SampleShape
from vlm_ablate.accounting.memory import MemoryPlan, Sharding
from vlm_ablate.accounting.plan import (
    ModelPlan,
    Planner,
    StagePlan,
    check_lengths,
    plan_model,
    short_count,
    visual_tokens_of,
)

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
    "check_lengths",
    "plan_features",
    "plan_model",
    "short_count",
    "visual_tokens_of",
]
