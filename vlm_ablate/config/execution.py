"""The execution section: how a run is computed, outside of everything that decides its result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import Strict, added
from vlm_ablate.config.stages import Stage

Strategy = Literal["auto", "ddp", "fsdp2"]
Attention = Literal["auto", "padded", "documents", "varlen", "flash_attn"]


class StageExecution(Strict, decides="execution"):
    """What one stage does otherwise; None: as the section says."""

    micro_batch_size: int | None = Field(None, gt=0)
    gradient_checkpointing: bool | None = None
    features: Literal["auto", "on", "off"] | None = None


class Execution(Strict, decides="execution"):
    """How a run is computed. Nothing here changes what it gives, beyond rounding."""

    micro_batch_size: int | None = Field(None, gt=0)
    """Sequences per forward pass; None: the whole batch. The gradient does not depend on it."""
    gradient_checkpointing: bool = False
    """Compute the layers' activations again in the backward pass, for less memory."""
    attention: Attention = added("auto")
    """How the samples of a micro-batch stand beside each other in training. "padded": a row each, as long as the
    longest. The others lay them into one row without padding, each seeing itself only: "documents" attends one
    document at a time, on any device; "varlen" is torch's own flash attention, "flash_attn" that of the package (extra
    `gpu`), both on a GPU in bf16. "auto": the best there is on a GPU, and "padded" on a CPU, so that recorded results
    there repeat to the last digit. Loss and gradients are equal in exact arithmetic; noise and dropout are drawn
    anew."""
    devices: int | None = added(None, gt=0)
    """Ranks of a run on each node, which share every batch: each has a GPU, or where there are none a process. None:
    one. `--devices` goes before it. Loss and gradients are equal in exact arithmetic; noise and dropout are drawn
    anew."""
    nodes: int | None = added(None, gt=0)
    """Machines of a run. None: one. `--nodes` goes before it."""
    strategy: Strategy = added("auto")
    """What ranks share. "ddp": each has the whole model. "fsdp2": each holds a share of the weights, gradients and
    moments. "auto": ddp."""
    compile: bool = added(False)
    """Have torch.compile compile attention, MLP and norms of both backbones' layers while they train. It costs a minute
    or more before the first step. Loss and gradients are equal up to rounding; scores are computed without."""
    stages: dict[str, StageExecution] = Field(default_factory=dict)
    """Name of a stage -> what it does otherwise."""
    checkpoint_every: int = Field(100, gt=0)
    """Optimiser steps between resumable checkpoints."""
    continuable: bool = added(True)
    """Keep the last checkpoint of a finished stage whose `schedule` is constant (trained parameters and moments, see
    `plan`), so that the same stage with more steps goes on from there. Other stages keep none."""
    log_every: int = Field(10, gt=0)
    """Optimiser steps between tracked metrics."""
    workers: int = Field(0, ge=0)
    """Data loader processes; the order of samples does not depend on it."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Share of unusable samples (undecodable image, nothing to learn after truncation) above which the run fails, as
    soon as there are more than chance explains."""
    evaluation_batch_size: int = Field(32, gt=0)
    """Prompts generated together; greedy answers do not depend on it."""
    shared_prompts: Literal["auto", "on", "off"] = added("auto")
    """Compute once what prompts of an evaluation have in common: the first shots of a batch, as far as prompts begin
    alike and it pays, and pictures that several benchmarks show. "auto": on a GPU, and on a CPU with `selection: fixed`
    alone, so that recorded results there repeat to the last digit. Keys and values are equal in exact arithmetic."""

    features: Literal["auto", "on", "off"] = "auto"
    """Keep the output of a frozen encoder on disk, for all arms, seeds and evaluations of this home. "auto" where it
    pays by the plan. On a CPU the digits stay what they are without; see docs/how-to/features.md."""
    features_gib: float = Field(16.0, gt=0)
    """GiB that the output of all encoders may take in the home's cache; what was not used for longest goes first.
    Answers that arms share take 2 GiB beside it at most, or as much where this is less."""

    @property
    def ranks(self) -> int:
        """Processes that share a batch."""
        return (self.devices or 1) * (self.nodes or 1)

    def of_stage(self, name: str) -> Execution:
        """As one stage is computed: the section with what `stages` says of it."""
        own = self.stages.get(name, StageExecution())
        return self.model_copy(update={"stages": {}, **own.model_dump(exclude_none=True)})


def is_continuable(stage: Stage, execution: Execution) -> bool:
    """Whether a stage's last checkpoint is kept, for a longer one to go on from: nothing in it depends on its length.

    Args:
        execution: of the stage.
    """
    return stage.schedule == "constant" and execution.continuable
