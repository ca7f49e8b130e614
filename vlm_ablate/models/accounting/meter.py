"""One forward and backward pass on the meta device: operations and saved activations, without weights or data.

Operations are counted by torch's own formulas (`torch.utils.flop_counter`, 2 a multiply-add) over the model's real
modules and autograd graph, so that frozen weights, adapters and plug-in parts cost what they cost. Attention is
replaced by a stand-in with the shape behaviour of a fused kernel: 4 * queries * keys * head width forward, twice that
backward, and no matrix of scores is kept. (A fused kernel's recomputation of scores is not counted.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class LayerCost:
    """What a layer that can be checkpointed costs in the forward pass."""

    flops: float = 0.0
    saved: int = 0
    """Bytes kept for the backward pass."""
    inputs: int = 0
    """Bytes of its input, which checkpointing keeps instead."""
    weights: int = 0
    """Parameters of its matrix products."""


@dataclass
class Meter:
    """Running totals, readable at any time inside `running`."""

    attention: float = 0.0
    saved: int = 0
    layers: dict[str, list[LayerCost]] = field(default_factory=dict)
    blocks: float = 0.0
    """Operations inside the cross-attention blocks, forward."""
    _counter: FlopCounterMode | None = None
    _storages: dict[int, Tensor] = field(default_factory=dict)
    _weights: set[int] = field(default_factory=set)

    @property
    def flops(self) -> float:
        """Operations so far."""
        return (self._counter.get_total_flops() if self._counter else 0) + self.attention

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[Meter]:
        """Count everything that happens inside the block, which must stay on the meta device."""
        self._weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        with ExitStack() as stack:
            self._counter = stack.enter_context(FlopCounterMode(display=False))
            stack.enter_context(AssumeNoPadding())
            stack.enter_context(FusedAttention(self))
            stack.enter_context(saved_tensors_hooks(self._keep, lambda t: t))
            yield self

    def watch(self, part: str, layers: list[nn.Module]) -> None:
        """Record the cost of each of these layers when it runs."""
        self.layers[part] = []
        for layer in layers:
            layer.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
            layer.register_forward_hook(lambda *call, part=part: self._after(part, call[0]), with_kwargs=True)

    def watch_blocks(self, blocks: list[nn.Module]) -> None:
        """Sum the forward cost of these modules in `blocks`."""

        def before(*_: Any) -> None:
            self.blocks -= self.flops

        def after(*_: Any) -> None:
            self.blocks += self.flops

        for block in blocks:
            block.register_forward_pre_hook(before)
            block.register_forward_hook(after)

    def _before(self, _: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._open = LayerCost(-self.flops, -self.saved, hidden.numel() * hidden.element_size())

    def _after(self, part: str, layer: nn.Module) -> None:
        cost = self._open
        cost.flops += self.flops
        cost.saved += self.saved
        cost.weights = matrix_weights(layer)
        self.layers[part].append(cost)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights and storage._cdata not in self._storages:
            self._storages[storage._cdata] = tensor  # alive, so that its address is not given out again
            self.saved += storage.nbytes()
        return tensor


def matrix_weights(module: nn.Module) -> int:
    """Parameters with two or more dimensions: those of matrix products and convolutions."""
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


class AssumeNoPadding(TorchDispatchMode):
    """Answers yes when a model asks a meta tensor whether all positions are real, none are packed, and the like."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))


class FusedAttention(TorchFunctionMode):
    """Sends every scaled_dot_product_attention to the stand-in."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[n] for n in ("query", "key", "value") if n in kwargs))[:3]
            return _Attention.apply(query, key, value, self.meter)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Shapes, saved tensors and operations of fused attention: keeps q, k, v, the output and a sum for each query."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, meter: Meter) -> Tensor:
        batch, heads, queries, width = query.shape
        out = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, queries, dtype=torch.float32))
        ctx.meter, ctx.flops = meter, 2.0 * batch * heads * queries * key.shape[-2] * (width + value.shape[-1])
        meter.attention += ctx.flops
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.meter.attention += 2 * ctx.flops
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
