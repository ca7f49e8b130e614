"""Peak memory of a training step, from what autograd keeps of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from vlm_ablate.accounting.fits import micro_batch
from vlm_ablate.accounting.measure import Measurement
from vlm_ablate.accounting.plans import IN_LANGUAGE, MemoryPlan, Sharding
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Units:
    """Parameters by what FSDP gathers at a time: each layer, and all that is outside the layers."""

    outside: int
    largest: int
    """Of one layer."""
    trained: int
    """Largest number that require gradients in one layer."""


def plan_memory(
    stage: Stage,
    execution: Execution,
    cost: Measurement,
    *,
    fixed_bytes: int,
    trained: int,
    units: Units,
    sequence: int,
    vocabulary: int,
    shards: int,
    sharding: Sharding,
    samples: int = 1,
) -> MemoryPlan:
    """For micro-batches of sequences of full length, each with the images of so many samples.

    What the language model keeps grows with the sequence; what encoder and connector keep, with the images.

    Args:
        stage: precision and batch size.
        execution: of the stage: micro-batch and checkpointing.
        cost: of one sample, without checkpointing.
        fixed_bytes: parameters and buffers.
        trained: parameters that require gradients.
        units: parameters by what is gathered at a time.
        sequence: tokens of a full sequence.
        vocabulary: width of the logits.
        shards: devices of a group.
        sharding: what they hold a share of.
        samples: that stand in a packed row.
    """
    micro, again = micro_batch(stage, execution, shards), execution.gradient_checkpointing
    length = max(sequence, cost.sequence)
    supervised = length - samples * (cost.sequence - cost.supervised)
    grow = dict.fromkeys(IN_LANGUAGE, length / cost.sequence)
    kept = sum(_kept(cost, part, again) * grow.get(part, samples) for part in cost.saved if part != "loss")
    widest = max((c.saved * grow.get(p, samples) for p, costs in cost.meter.layers.items() for c in costs), default=0.0)
    widest *= 1.25 if again else 0.5
    logits = supervised * vocabulary * (2 * FP32 + (BF16 if stage.precision == "bf16" else FP32))
    gathers = shards > 1 and sharding is Sharding.zero3
    width = BF16 if stage.precision == "bf16" else FP32
    return MemoryPlan(
        weights=ceil(fixed_bytes / (shards if gathers else 1)),
        moments=ceil(2 * FP32 * trained / shards),
        gradients=ceil(FP32 * trained / (1 if sharding is Sharding.zero1 else shards)),
        activations=int(kept * micro),
        transient=int(max(logits, widest) * micro),
        copies=_dense(cost, again) + (_copies(cost, again) if stage.precision == "bf16" and not gathers else 0),
        gathered=width * (units.outside + 2 * units.largest + units.trained) if gathers else 0,
        accumulates=micro * max(shards, execution.ranks) < stage.batch_size,
    )


def _kept(cost: Measurement, part: str, again: bool) -> float:
    """Bytes that autograd keeps of a stretch (vision, connector, language) of one sample."""
    parts = IN_LANGUAGE if part == "language" else (part,)
    layers = [layer for p in parts for layer in cost.meter.layers.get(p, [])]
    if not (again and layers and cost.saved[part]):
        return cost.saved[part]
    return cost.saved[part] + sum(layer.inputs - layer.saved for layer in layers)


def _dense(cost: Measurement, again: bool) -> int:
    each = [layer.dense for layers in cost.meter.layers.values() for layer in layers]
    return max(each, default=0) if again else sum(each)


def _copies(cost: Measurement, again: bool) -> int:
    """Of layers, all copies are alive at once, or one layer's under checkpointing."""
    weights = cost.loose_weights
    for part, layers in cost.meter.layers.items():
        if cost.graded[part] and layers:
            each = [layer.weights for layer in layers]
            weights += max(each) if again else sum(each)
    return BF16 * weights
