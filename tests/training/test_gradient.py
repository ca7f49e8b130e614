"""The update does not depend on how a batch is split into micro-batches or dealt to ranks."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.training.fit import build_trainer, quiet_lightning
from vlm_ablate.training.module import TrainingModule, micro_batches

from .rows import RowData, SmallVLM, collate, sample_row


class Keep(Callback):
    """Writes the gradients of the first update, just before the optimiser uses them."""

    def __init__(self, path):
        self.path = path

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.is_global_zero:
            torch.save({n: p.grad.clone() for n, p in module.vlm.named_parameters() if p.grad is not None}, self.path)


def gradients(tmp_path, micro, clip=None, **options):
    torch.manual_seed(0)
    vlm = SmallVLM(dropout=0.0)
    vlm.vision.eval()  # batch statistics would depend on the split
    stage = Stage(steps=1, batch_size=8, gradient_clip=clip)
    module = TrainingModule(vlm, stage, Execution(micro_batch_size=micro), world_size=options.get("devices", 1))
    path = tmp_path / f"{micro}.pt"
    with quiet_lightning():
        build_trainer(stage, [Keep(path)], tmp_path, **options).fit(module, datamodule=RowData(stage, 0, micro))
    return torch.load(path)


def reference():
    torch.manual_seed(0)
    vlm = SmallVLM(dropout=0.0)
    vlm.vision.eval()
    output = vlm(collate([(i, sample_row(i)) for i in range(8)]))
    (output.loss_sum / output.supervised_tokens).backward()
    return {n: p.grad for n, p in vlm.named_parameters() if p.grad is not None}


def assert_same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, grad in mine.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("micro", [None, 4, 2])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, micro):
    assert_same(gradients(tmp_path, micro), reference())


@pytest.mark.parametrize("micro", [4, 2])
def test_ranks_give_the_gradient_of_the_whole_batch(tmp_path, micro):
    split = gradients(tmp_path, micro, devices=2, strategy="ddp_fork", plugins=[])
    assert_same(split, reference())


def test_rows_have_different_numbers_of_supervised_tokens():
    """Otherwise the tests above would pass with a mean of means."""
    counts = {collate([(i, sample_row(i))]).supervised_tokens for i in range(8)}
    assert len(counts) > 3


def test_clipping_does_not_depend_on_the_split(tmp_path):
    whole, parts = gradients(tmp_path, None, clip=0.01), gradients(tmp_path, 2, clip=0.01)
    assert_same(whole, parts)
    norm = torch.stack([g.norm() for g in whole.values()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_batch_that_cannot_be_divided_over_ranks_is_refused(batch_size):
    with pytest.raises(ModelError, match=f"batch_size {batch_size} cannot be divided over 2 devices"):
        micro_batches(Stage(steps=1, batch_size=batch_size), None, 2)
