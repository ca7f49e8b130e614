"""What a trial costs by its plan, for constraints, second objectives and budgets. torch is loaded when first asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlm_ablate.accounting.features import GIB
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.home import Home
from vlm_ablate.sweeps.config import Sweep

if TYPE_CHECKING:
    from vlm_ablate.accounting import Planner
    from vlm_ablate.runs.plans import KeptPlans


@dataclass(frozen=True)
class Cost:
    """The plan of one run."""

    flops: float
    """Operations of its training, all stages."""
    gpu_hours: float
    """Of its training on H100s, as `vlm-ablate plan` tells them: for full rows, at its share of the peak."""
    parameters: int
    """Of the model, adapters not counted."""
    peak_memory: int
    """Bytes of a device at the step that needs most."""


class Costs:
    """Plans runs; what several share is worked out once.

    Args:
        home: where plans are kept, and the runs are that others start from; None: the default one.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._home = home or Home.default()

    def cost(self, config: RunConfig) -> Cost:
        """The cost of one run.

        Raises:
            AssetMissing: a configuration is not on this machine.
            ModelError: the parts do not fit together.
            UnknownNameError, RunNotUsable: a run that it starts from is not there, or has no weights to give.
        """
        from vlm_ablate.runs.starts import placed_run

        plan = self._kept.plan(placed_run(config, self._home), lambda config: self._planner.plan(config))
        stages = plan.stages.values()
        flops = sum(stage.flops * stage.samples for stage in stages)
        hours = sum(stage.gpu_hours() for stage in stages)
        return Cost(flops, hours, plan.total_parameters, max((stage.memory.peak for stage in stages), default=0))

    @cached_property
    def _kept(self) -> KeptPlans:
        from vlm_ablate.accounting import SampleShape, Sharding
        from vlm_ablate.runs.plans import KeptPlans

        return KeptPlans(SampleShape(), 1, Sharding("zero3"), self._home)

    @cached_property
    def _planner(self) -> Planner:
        from transformers.utils import logging

        from vlm_ablate.accounting import Planner

        logging.set_verbosity_error()
        return Planner()


def needs_cost(sweep: Sweep) -> bool:
    """Whether every trial must be planned before it is run."""
    limits = sweep.constraints
    asked = (limits.peak_memory_gib, limits.parameters, limits.flops, sweep.budget.flops, sweep.objective.against)
    return any(each is not None for each in asked)


def over_limits(sweep: Sweep, cost: Cost) -> dict[str, float]:
    """Constraint -> by what factor the plan exceeds it, less one: above 0 where it does not fit."""
    limits = sweep.constraints
    pairs = {
        "peak_memory_gib": (cost.peak_memory / GIB, limits.peak_memory_gib),
        "parameters": (float(cost.parameters), limits.parameters),
        "flops": (cost.flops, limits.flops),
    }
    return {name: value / limit - 1 for name, (value, limit) in pairs.items() if limit is not None}
