"""What a run's plan says of the GPU that trains: whether it holds the run, and by what MFU and HFU are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm_ablate.accounting import ModelPlan, StagePlan, check_fits
from vlm_ablate.accounting.gpus import gpu_called
from vlm_ablate.tracking import schema
from vlm_ablate.training.counters import BatchFlops, flops_by_rates


@dataclass(frozen=True)
class Speed:
    """Of one stage on one kind of GPU."""

    flops: BatchFlops
    """The model's own operations on a batch."""
    peak: float
    """Operations a second of the GPU."""
    share: float
    """HFU over MFU: what is done over the model's own."""

    def metrics(self, per_second: float) -> dict[str, float]:
        """MFU and HFU at so many of the model's operations a second."""
        mfu = per_second / self.peak
        return {schema.TRAIN_MFU: mfu, schema.TRAIN_HFU: mfu * self.share}


def speed_on(device: str, plan: StagePlan, *, stored: bool) -> Speed | None:
    """What a stage's speed is measured by; None: the device's peak is not known.

    Args:
        device: as its driver calls it.
        plan: of the stage.
        stored: whether the encoder's output may come from a store: then the work of encoder and connector is not
            counted, which leaves MFU on the low side.
    """
    gpu = gpu_called(device)
    if gpu is None:
        return None
    per_view, per_token, per_pair = plan.model_rates
    return Speed(flops_by_rates(0.0 if stored else per_view, per_token, per_pair), gpu.flops, plan.hardware_share)


def device_name() -> str:
    """Of the GPU that trains; "" without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def too_small(plan: ModelPlan) -> list[str]:
    """What of a plan will probably not fit the GPU of this process; nothing where there is none.

    Raises:
        ModelError: it cannot fit.
    """
    if not torch.cuda.is_available():
        return []
    return check_fits(plan, torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory, device_name())
