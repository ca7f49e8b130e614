"""Whether a device holds what a run needs, told before weights are read. No torch here."""

from __future__ import annotations

from vlm_ablate.accounting.features import GIB
from vlm_ablate.accounting.plans import ModelPlan
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError

SHARED_OUT = "share the model out: execution.strategy: fsdp2 with --devices N"
LESS_MEMORY = f"lower execution.micro_batch_size, set execution.gradient_checkpointing, or {SHARED_OUT}"


def shards_of(execution: Execution) -> int:
    """Devices that hold a share of the model each, as a run is launched: under fsdp2 all of its ranks."""
    return execution.ranks if execution.strategy == "fsdp2" else 1


def micro_batch(stage: Stage, execution: Execution, shards: int = 1) -> int:
    """Sequences per forward pass of a rank, of `shards` ranks or as many as the execution section names.

    Args:
        stage: with its batch size.
        execution: of the stage.
        shards: devices of a group that a plan is made for.
    """
    return execution.micro_batch_size or max(1, stage.batch_size // max(shards, execution.ranks))


def check_fits(plan: ModelPlan, memory: int, device: str) -> list[str]:
    """What of a plan is more than a device has by an estimate that may be wrong by a sixth or so, in words.

    Args:
        plan: of a run, shared out as the run will be.
        memory: bytes of the device.
        device: its name, for the message.

    Raises:
        ModelError: weights, moments and gradients alone, which are known to the byte, are more.
    """
    tight = []
    for name, stage in plan.stages.items():
        held = stage.memory.weights + stage.memory.moments + stage.memory.gradients
        room = f"{device} has {memory / GIB:.1f} GiB"
        if held > memory:
            raise ModelError(
                f"stage {name!r}: weights, moments and gradients take {held / GIB:.1f} GiB, and {room}",
                hint=f"train less of it (lora, frozen), or {SHARED_OUT}",
            )
        if stage.memory.peak > memory:
            peak = f"{stage.memory.peak / GIB:.1f} GiB at the peak"
            tight.append(f"stage {name!r} is planned to take {peak}, and {room}: {LESS_MEMORY}")
    return tight
