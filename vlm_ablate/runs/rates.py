"""What a run's plan says before it trains: whether it can, what a batch costs in each stage, how large the model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from vlm_ablate.accounting import (
    ModelPlan,
    SampleShape,
    Sharding,
    StagePlan,
    check_lengths,
    cut_images,
    plan_model,
    shards_of,
)
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.plans import KeptPlans
from vlm_ablate.runs.speed import Speed, device_name, speed_on, too_small
from vlm_ablate.runs.starts import placed_run
from vlm_ablate.tracking import schema


def plan_run(config: RunConfig, home: Home, notice: Callable[[str], None]) -> ModelPlan | None:
    """The plan of a run; None: parts that cannot be built on the meta device may still train.

    Args:
        notice: hears that there is none, and of what will probably not fit the GPU, or a sequence.

    Raises:
        VlmAblateError: parts that do not fit together, or on the GPU: shown before weights are read.
    """
    try:
        shards = shards_of(config.execution)
        kept = KeptPlans(SampleShape(), shards, Sharding.zero3, home)
        plan = kept.plan(placed_run(config, home), partial(plan_model, shards=shards))
        check_lengths(plan, config)
    except VlmAblateError:
        raise
    except Exception as error:
        notice(f"no plan, and FLOPs are not counted: {type(error).__name__}: {error}")
        return None
    for problem in [*too_small(plan), *cut_images(plan, config)]:
        notice(problem)
    return plan


@dataclass(frozen=True)
class Rates:
    """Of each stage, where there is a plan."""

    flops: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Training FLOPs of a view and of a token (`flops_by_rates`)."""
    sizes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """To be recorded."""
    plans: Mapping[str, StagePlan] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: ModelPlan) -> Rates:
        """As a plan has them."""
        images = plan.sample.images
        flops, sizes = {}, {}
        for name, stage in plan.stages.items():
            flops[name] = (
                (stage.training_flops["vision"] + stage.training_flops["connector"]) / (images * stage.views),
                (stage.training_flops["language"] + stage.training_flops["cross_attention"]) / stage.sequence,
            )
            sizes[name] = {
                schema.PARAMS_TOTAL: float(stage.total_parameters),
                schema.PARAMS_TRAINABLE: float(stage.trainable_parameters),
                schema.VISUAL_TOKENS: float(plan.visual_tokens_per_image),
                schema.FLOPS_PER_SAMPLE: float(stage.flops),
            }
        return cls(flops, sizes, plan.stages)

    def speed(self, name: str, *, stored: bool) -> Speed | None:
        """What a stage's MFU is measured by, where it can be.

        Args:
            stored: see `speed_on`.
        """
        return speed_on(device_name(), self.plans[name], stored=stored) if name in self.plans else None
