"""bf16 on the meta device is bf16 as autocast gives it, and a model that is not filled is the model all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_ablate.accounting.autocast import Autocast
from vlm_ablate.accounting.unfilled import Unfilled

Operation = Callable[[Tensor, Tensor], Tensor]
ROUNDED: dict[str, Operation] = {
    "linear": lambda x, w: F.linear(x, w),
    "matmul": lambda x, w: torch.matmul(x, w),
    "method": lambda x, w: x.matmul(w),
    "operator": lambda x, w: x @ w,
    "mm": lambda x, w: torch.mm(x, w),
    "bmm": lambda x, w: x[None].bmm(w[None]),
    "addmm": lambda x, w: torch.addmm(x, x, w),
    "baddbmm": lambda x, w: torch.baddbmm(x[None], x[None], w[None]),
    "einsum": lambda x, w: torch.einsum("ab,bc->ac", x, w),
    "conv1d": lambda x, w: F.conv1d(x[None], w[..., None]),
    "conv2d": lambda x, w: F.conv2d(x[None, :, :, None], w[..., None, None]),
    "conv3d": lambda x, w: F.conv3d(x[None, :, :, None, None], w[..., None, None, None]),
    "attention": lambda x, w: F.scaled_dot_product_attention(x[None], w[None], w[None]),
    "keywords": lambda x, w: F.linear(input=x, weight=w),
}
KEPT: dict[str, Operation] = {
    "sum": lambda x, w: x + w,
    "product": lambda x, w: x * w,
    "gelu": lambda x, w: F.gelu(x @ w),
    "norm after": lambda x, w: F.layer_norm(x @ w, (4,)),
    "relu": lambda x, w: F.relu(x),
}
WHOLE: dict[str, Operation] = {
    "softmax": lambda x, w: (x @ w).softmax(-1),
    "layer_norm": lambda x, w: F.layer_norm(x @ w, (4,)),
    "power": lambda x, w: (x @ w) ** 2,
    "rsqrt": lambda x, w: torch.rsqrt(x @ w),
    "loss": lambda x, w: F.cross_entropy(x @ w, torch.zeros(len(x), dtype=torch.long, device=x.device)),
    "log_softmax": lambda x, w: F.log_softmax(x @ w, dim=-1),
    "sum along": lambda x, w: (x @ w).cumsum(-1),
}
"""Computed in fp32 from what is in bf16, on a GPU."""


def on(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.ones(4, 4, dtype=dtype, device=device), torch.ones(4, 4, dtype=dtype, device=device)


@pytest.mark.parametrize("name", [*ROUNDED, "sum", "product", "relu"])
def test_types_are_those_that_autocast_gives(name: str) -> None:
    operation = (ROUNDED | KEPT)[name]
    with torch.autocast("cpu", torch.bfloat16):
        theirs = operation(*on("cpu"))
    with Autocast(lambda copy: None):
        ours = operation(*on("meta"))
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.is_meta and theirs.dtype == (torch.bfloat16 if name in ROUNDED else torch.float32)


@pytest.mark.parametrize("name", WHOLE)
def test_what_a_gpu_computes_whole_is_fp32(name: str) -> None:
    with Autocast(lambda copy: None):
        assert WHOLE[name](*on("meta")).dtype == torch.float32
        assert (torch.ones(2, 2, device="meta") @ torch.ones(2, 2, device="meta")).dtype == torch.bfloat16


def test_a_weight_is_copied_once_and_told_once_and_its_gradient_is_whole() -> None:
    copies: list[Tensor] = []
    layer, half = (nn.Linear(4, 4, device="meta", dtype=kind) for kind in (torch.float32, torch.bfloat16))
    x = torch.ones(2, 4, device="meta")
    with Autocast(copies.append):
        out = half(layer(layer(x)))
        assert F.embedding(torch.ones(2, dtype=torch.long, device="meta"), layer.weight).dtype == torch.float32
    assert len(copies) == 2 and {copy.shape for copy in copies} == {layer.weight.shape, layer.bias.shape}
    assert all(copy.dtype == torch.bfloat16 and not isinstance(copy, nn.Parameter) for copy in copies)
    out.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    assert half.weight.grad is not None and half.weight.grad.dtype == torch.bfloat16


def a_model(device: str) -> nn.Module:
    with torch.device(device):
        model = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, 6), nn.LayerNorm(6), nn.Conv1d(6, 2, 1))
        model.register_parameter("gate", nn.Parameter(torch.empty(3)))
        nn.init.trunc_normal_(model.gate, std=0.1)
        nn.init.constant_(tensor=model.gate, val=2.0)
        model.gate.data.zero_()
    return model


def test_a_model_on_the_meta_device_is_the_same_without_being_filled() -> None:
    plain = a_model("meta")
    with Unfilled():
        unfilled = a_model("meta")
    told = [[(n, p.shape, p.dtype, p.requires_grad, p.device) for n, p in m.named_parameters()]
            for m in (plain, unfilled)]  # fmt: skip
    assert told[0] == told[1]


def test_what_holds_numbers_is_filled_as_ever() -> None:
    torch.manual_seed(0)
    plain = a_model("cpu")
    torch.manual_seed(0)
    with Unfilled():
        found = a_model("cpu")
    for name, parameter in plain.state_dict().items():
        assert torch.equal(parameter, found.state_dict()[name]), name
