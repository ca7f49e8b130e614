"""Whether keeping the output of a frozen encoder pays: operations saved against bytes read, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_ablate.accounting.gpus import GPUS
from vlm_ablate.accounting.plans import StagePlan
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage, Training

WORTH = 1.15
"""Gain from which on `auto` keeps features: below, what is written and looked up eats it."""
READ = 1.5e9
"""Bytes a second that one process reads: of a local disk, or of the page cache with checksums."""
CPU_FLOPS = 30e9
"""Operations a second of one thread in fp32, as a transformer reaches them."""
GPU_MFU = 0.4
"""Share of a GPU's peak that a run is taken to reach."""
GPU_FLOPS = GPU_MFU * GPUS["h100"].flops
"""What a run is taken to reach on a GPU whose peak is not known."""
GIB = 2**30
SEVERAL_RANKS = "several ranks"
"""Why a run of several ranks keeps nothing."""


@dataclass(frozen=True)
class FeaturePlan:
    """What is known of a stage before it runs."""

    on: bool
    reason: str
    """In words, with the figures."""
    gain: float
    """How many times faster a step is whose pictures were seen before; 1 where nothing can be kept."""
    bytes: float
    """Of all pictures of the stage."""
    most: float = 0.0
    """Tokens a picture up to which `auto` keeps it, where it does not only because these samples have more; else 0."""


@dataclass(frozen=True)
class Lengths:
    """What samples are like: means."""

    tokens: float
    """Of the text stream."""
    views: float
    images: float


def plan_features(
    stage: Stage,
    execution: Execution,
    plan: StagePlan,
    *,
    flops: float,
    pictures: int | None = None,
    lengths: Lengths | None = None,
) -> FeaturePlan:
    """Decide for one stage.

    The time of a step is its operations over `flops`; with features at hand those of the encoder fall away and their
    bytes are read at 1.5 GB/s instead. What is beside the pictures takes its time with and without, so that the gain
    hangs on how many tokens a sample has for each of its pictures: a run looks at its own samples, a plan takes its
    sample and says up to how many tokens a picture it pays.

    Args:
        execution: of the stage.
        plan: of the stage.
        flops: operations a second that the device reaches.
        pictures: different pictures of the stage; None: as many as its samples have.
        lengths: of the samples; None: the plan's sample.
    """
    planned = Lengths(plan.sequence, plan.sample_images * plan.views, plan.sample_images)
    real, per_view = lengths or planned, 1 / max(planned.views, 1e-9)
    count = plan.samples * real.images
    size = min(count, pictures or count) * plan.feature_bytes * per_view * real.views / max(real.images, 1e-9)
    if stage.vision is not Training.frozen:
        return FeaturePlan(False, "the encoder is trained", 1.0, 0.0)
    if plan.features_refused:
        return FeaturePlan(False, plan.features_refused, 1.0, 0.0)
    if execution.ranks > 1:  # the others would wait for one that has to encode
        return FeaturePlan(False, SEVERAL_RANKS, 1.0, 0.0)
    spent, share = plan.training_flops, real.views * per_view
    encoder, connector = share * spent["vision"] / flops, share * spent["connector"] / flops
    token = (plan.flops - spent["vision"] - spent["connector"]) / planned.tokens / flops
    read = share * plan.feature_bytes / READ
    kept = connector + real.tokens * token + read
    gain = (encoder + connector + real.tokens * token) / kept if kept else 1.0
    most = (encoder + connector - WORTH * (connector + read)) / (token * (WORTH - 1)) if token else 0.0
    images = real.images or 1.0
    pays = f"pays up to {most / images:.0f}" if most > 0 else "never pays"
    once = "" if pictures else " if no picture comes twice"
    told = f"{gain:.2f}x a step with {real.tokens / images:.0f} tokens a picture, {pays}; {size / GIB:.1f} GiB{once}"
    if execution.features != "auto":
        return FeaturePlan(execution.features == "on", f"asked for; {told}", gain, size)
    fits = size <= execution.features_gib * GIB
    if gain < WORTH:
        return FeaturePlan(False, f"{told}: gains too little", gain, size, max(most / images, 0.0) if fits else 0.0)
    if not fits:
        return FeaturePlan(False, f"{told}: more than features_gib {execution.features_gib:g}", gain, size)
    return FeaturePlan(True, told, gain, size)
