"""The LightningModule: one loss for any split of a batch into micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.lr_scheduler import LRScheduler

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import Batch
from vlm_ablate.training.optim import build_optimizer, build_scheduler, scale_and_clip


class TrainingModule(pl.LightningModule):
    """Trains the parameters of a VLM that require gradients.

    The loss of an optimiser step is the sum over all supervised tokens divided by their number, both taken over all
    micro-batches and ranks. Gradients of plain sums are accumulated and divided once at the end, so that the update
    does not depend on how the batch was split.

    `vlm` needs `forward(batch) -> Output` with `loss_sum` (scalar tensor) and `supervised_tokens`.
    """

    def __init__(
        self,
        vlm: nn.Module,
        stage: Stage,
        execution: Execution = Execution(),
        *,
        world_size: int = 1,
        observe: Callable[[Batch], None] | None = None,
        shard: Callable[[DeviceMesh], None] | None = None,
    ) -> None:
        """
        Args:
            vlm: the model; what trains is what requires gradients.
            stage: batch size, optimiser, schedule.
            execution: of the stage: micro-batch, how often to log and to save.
            world_size: ranks that share a batch.
            observe: called with every micro-batch while it is still on the host.
            shard: gives each rank of the mesh its share of the model; None: each has all of it.
        """
        super().__init__()
        self.vlm = vlm
        self.stage, self.execution = stage, execution
        self._observe, self._shard = observe, shard
        # Lightning must not miss the frozen weights that `state_dict` leaves out; `load_state_dict` checks the others.
        self.strict_loading = False
        self.automatic_optimization = False
        self.micro_batches = micro_batches(stage, self.execution.micro_batch_size, world_size)
        """Forward passes of one rank per optimiser step."""
        self.micro_batch = 0
        """Forward passes done since the last optimiser step."""
        self.step_loss: Tensor | None = None
        """Mean loss per supervised token of the last optimiser step."""
        self.step_norm: Tensor | None = None
        """Gradient norm of the last optimiser step, before clipping."""
        self._loss_sum: Tensor | float = 0.0
        self._supervised: Tensor | int = 0
        self._trainable: list[nn.Parameter] = []

    def configure_model(self) -> None:
        """Share the model out over the ranks, once they have met. Called again by Lightning, does nothing."""
        if self._shard is not None:
            shard, self._shard = self._shard, None
            assert self.device_mesh is not None  # the strategy has made one
            shard(self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and the schedule of the stage; the schedule is stepped here, once an optimiser step."""
        optimizer = build_optimizer(self.vlm, self.stage)
        self._trainable = [p for group in optimizer.param_groups for p in group["params"]]
        return {"optimizer": optimizer, "lr_scheduler": build_scheduler(optimizer, self.stage)}

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Counting here reads host memory, so that no step waits for a GPU."""
        if self._observe is not None:
            self._observe(batch)
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """To a GPU without waiting for it: the loader has pinned the batch."""
        return batch.to(device, non_blocking=True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One micro-batch; the last one of an optimiser step also updates the parameters."""
        last = self.micro_batch + 1 == self.micro_batches
        # Ranks need to exchange gradients only once a step.
        with nullcontext() if last else _block_parallel_sync_behavior(self.trainer.strategy, block=True):
            output = self.vlm(batch)
            self.manual_backward(output.loss_sum)
        self._loss_sum = self._loss_sum + output.loss_sum.detach()
        self._supervised = self._supervised + output.supervised_tokens
        self.micro_batch = 0 if last else self.micro_batch + 1
        if last:
            self._update()

    def _update(self) -> None:
        # There is one of each.
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        totals = torch.stack(
            [torch.as_tensor(t, device=self.device).double() for t in (self._loss_sum, self._supervised)]
        )
        world = self.trainer.world_size
        if world > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        loss_sum, count = totals[0], totals[1].clamp(min=1)
        # Data-parallel strategies average gradients over ranks; the sum is wanted.
        self.step_norm = scale_and_clip(self._trainable, (world / count).float(), self.stage.gradient_clip)
        self.step_loss = (loss_sum / count).float()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        self._loss_sum, self._supervised = 0.0, 0

    def learning_rate_now(self) -> float:
        """Learning rate of the new parameters (the last group) for the next step."""
        return float(self.trainer.optimizers[0].param_groups[-1]["lr"])

    def trainable_names(self) -> list[str]:
        """Dotted paths of the trained parameters."""
        return [name for name, p in self.named_parameters() if p.requires_grad]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # for all its forms
        """Trained parameters and buffers only: the frozen weights are rebuilt from the configuration."""
        full = super().state_dict(*args, **kwargs)
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {name: value for name, value in full.items() if name not in frozen}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave.

        Raises:
            ModelError: a trained parameter is missing, or an unknown one is there.
        """
        missing = sorted(set(self.trainable_names()) - set(state_dict))
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        if missing or result.unexpected_keys:
            raise ModelError(
                f"the checkpoint does not fit this model: it lacks {missing[:3]} and has {result.unexpected_keys[:3]}",
                hint="it was written by another configuration; remove the run's folder to start afresh",
            )
        return result


def micro_batches(stage: Stage, micro_batch_size: int | None, world_size: int = 1) -> int:
    """Forward passes of one rank per optimiser step.

    Raises:
        ModelError: the batch cannot be divided over the ranks.
    """
    micro = micro_batch_size or max(1, stage.batch_size // world_size)
    if stage.batch_size % (micro * world_size):
        raise ModelError(
            f"batch_size {stage.batch_size} cannot be divided over {world_size} devices with micro batches of {micro}"
        )
    return stage.batch_size // (micro * world_size)
