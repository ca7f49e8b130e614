"""Operations on the meta device: counted as torch counts them, and the same when they are remembered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vlm_ablate.accounting.operations import Operations


class Mixed(nn.Module):
    """Products, convolutions, norms, views, changes in place, operations that give several tensors or none."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))
        self.table = nn.Embedding(32, 8)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        seen = self.norm(self.patches(pixels).flatten(2).transpose(1, 2))
        both = torch.cat([seen, self.table(ids)], dim=1)
        scores = (both @ both.transpose(1, 2)).softmax(-1)
        first, second = (scores @ both + self.mlp(both)).to(torch.bfloat16).chunk(2, dim=-1)
        out = torch.einsum("bnd,bnd->bn", first, second).float()
        out += 1
        return F.cross_entropy(out, torch.empty(len(out), dtype=torch.long, device=out.device))


def steps(model: nn.Module, mode: AbstractContextManager[object], image: int) -> list[tuple[object, ...]]:
    """Shape, strides and type of all gradients after a step."""
    with mode:
        pixels = torch.empty(2, 3, image, image, device="meta")
        model.zero_grad()
        model(pixels, torch.empty(2, 5, dtype=torch.long, device="meta")).backward()
    return [(p.grad.shape, p.grad.stride(), p.grad.dtype) for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("image", [16, 32])
def test_as_many_are_counted_as_torch_counts_each_time(image: int) -> None:
    model, theirs = Mixed().to("meta"), FlopCounterMode(display=False)
    gradients = steps(model, theirs, image)
    assert theirs.get_total_flops() > 0
    for _ in range(3):
        ours = Operations()
        assert steps(model, ours, image) == gradients
        assert ours.flops == theirs.get_total_flops()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 2,
        lambda x: x * 2.5,
        lambda x: x > 0,
        lambda x: x.long() * 2,
        lambda x: x.t() + x.t(),
        lambda x: x.to(torch.bfloat16) @ x.t().to(torch.bfloat16),
        lambda x: x.sum(0, keepdim=True),
        lambda x: x.sum(0),
        lambda x: x.topk(2)[1],
        lambda x: torch.arange(5, device="meta") + x[0, :5],
        lambda x: F.layer_norm(x, (6,)),
        lambda x: x.new_zeros(3, 1).expand(3, 7),
    ],
)
def test_what_is_remembered_is_what_torch_gives(operation: Callable[[Tensor], Tensor]) -> None:
    given = torch.empty(4, 6, device="meta")
    expected = operation(given)
    for _ in range(2):
        with Operations():
            found = operation(given)
        assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_the_same_storage_is_the_same_and_another_another() -> None:
    for _ in range(2):
        with Operations():
            given = torch.empty(4, 6, device="meta")
            held = given.untyped_storage()._cdata
            assert given.view(24).untyped_storage()._cdata == given[1:].untyped_storage()._cdata == held
            assert given.add_(1) is given
            first, second = given * 2, given * 2
            assert len({held, *(t.untyped_storage()._cdata for t in (first, second))}) == 3


def test_numbers_that_are_equal_but_of_another_type_are_told_apart() -> None:
    given = torch.empty(3, dtype=torch.long, device="meta")
    with Operations():
        found = [(given * factor).dtype for factor in (1, 1.0, 1, True)]
    assert found == [torch.int64, torch.float32, torch.int64, torch.int64]
