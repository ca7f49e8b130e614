"""What a run costs, known before any weight is read: parameters, tokens, FLOPs, memory, bytes, GPU-hours."""

from vlm_ablate.models.accounting.measure import SampleShape
from vlm_ablate.models.accounting.memory import MemoryPlan
from vlm_ablate.models.accounting.plan import ModelPlan, Planner, StagePlan, plan_model, short_count, visual_tokens_of

__all__ = [
    "MemoryPlan",
    "ModelPlan",
    "Planner",
    "SampleShape",
    "StagePlan",
    "plan_model",
    "short_count",
    "visual_tokens_of",
]
