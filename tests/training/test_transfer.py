"""Batches on their way to the device."""

from __future__ import annotations

import torch

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage
from vlm_ablate.models.batch import Batch
from vlm_ablate.training.fit import build_trainer, quiet_lightning
from vlm_ablate.training.module import TrainingModule

from .rows import RowData, SmallVLM


def test_a_batch_goes_to_its_device_without_waiting(tmp_path, monkeypatch):
    asked, to = [], Batch.to

    def heard(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
        asked.append(non_blocking)
        return to(batch, device, non_blocking=non_blocking)

    monkeypatch.setattr(Batch, "to", heard)
    stage = Stage(steps=2, batch_size=2)
    module = TrainingModule(SmallVLM(dropout=0.0), stage, Execution(micro_batch_size=1))
    with quiet_lightning():
        build_trainer(stage, [], tmp_path).fit(module, datamodule=RowData(stage, 0, 1))
    assert asked == [True] * 4
