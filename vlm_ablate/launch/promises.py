"""What `run` would refuse of what a plan is asked for, so that no plan promises it."""

from __future__ import annotations

from vlm_ablate.accounting.fits import shards_of
from vlm_ablate.config.run_config import RunConfig


def refused(config: RunConfig, *, shards: int | None = None, sharding: str = "zero3") -> str | None:
    """Why a run cannot be launched as it is planned; None: it can, on a machine that has the devices.

    Args:
        config: of the run.
        shards: devices of a group, where the plan is asked for another number than the execution section names.
        sharding: what they share.
    """
    if (shards or shards_of(config.execution)) == 1:
        return None
    if sharding != "zero3":
        return f"nothing shares {sharding}: ranks of a run share all of it (fsdp2, planned as zero3) or nothing (ddp)"
    if shards is None:  # the section fits, or there would be no configuration
        return None
    group = {"devices": shards, "nodes": None, "strategy": "fsdp2"}
    problem = config.unfit_for_ranks(config.execution.model_copy(update=group))
    return f"{problem[1]} (execution.{problem[0]})" if problem else None
