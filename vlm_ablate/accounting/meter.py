"""One forward and backward pass on the meta device: operations and saved activations, without weights or data.

Operations are counted by torch's own formulas (`torch.utils.flop_counter`, 2 a multiply-add) over the model's real
modules and autograd graph, so that frozen weights, adapters and plug-in parts cost what they cost. Attention is
replaced by a stand-in with the shape behaviour of a fused kernel: 4 * queries * keys * head width forward, twice that
backward, and no matrix of scores is kept. (A fused kernel's recomputation of scores is not counted.) So attention is
counted with every key, as torch counts it; what of it is causal, where half is masked, is summed up beside. Of a stack
of equal layers one is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary, finalize

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental import _config
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vlm_ablate.accounting.autocast import Autocast
from vlm_ablate.accounting.operations import Operations

Forward = Callable[..., Any]


@dataclass
class LayerCost:
    """What a layer that can be checkpointed costs."""

    flops: float = 0.0
    """Operations of the forward pass."""
    saved: int = 0
    """Bytes kept for the backward pass."""
    inputs: int = 0
    """Bytes of its input, which checkpointing keeps instead."""
    weights: int = 0
    """Parameters of its matrix products that are not in bf16 already."""
    dense: int = 0
    """Bytes of kept tensors of the shape of a weight (DoRA in another precision than its base): one for any batch."""
    again: float = 0.0
    """Operations of a recomputation under checkpointing, which stops at the last tensor that is kept."""
    causal: float = 0.0
    """Operations of causal attention in the forward pass, with every key."""
    several: bool = False
    """Whether it gives a tuple, the hidden states first."""
    repeats: int = 0
    """Layers after it that are the same and were not run."""
    started: float = 0.0
    causal_started: float = 0.0


@dataclass
class Meter:
    """Running totals, readable at any time inside `running`."""

    uncounted: float = 0.0
    """Operations that torch does not see: attention, repeated layers, ONNX graphs."""
    causal: float = 0.0
    """Of all operations those of causal attention, with every key."""
    saved: int = 0
    dense: int = 0
    """Bytes of kept tensors that have the shape of a weight, not in `saved`."""
    layers: dict[str, list[LayerCost]] = field(default_factory=dict)
    half: frozenset[int] = frozenset()
    """Ids of parameters that are in bf16 already."""
    _at_last_save: float = 0.0
    _counted: Operations = field(default_factory=Operations)
    _kept: WeakValueDictionary[int, _Kept] = field(default_factory=WeakValueDictionary)
    _weights: set[int] = field(default_factory=set)
    _weight_shapes: set[torch.Size] = field(default_factory=set)

    @property
    def flops(self) -> float:
        """Operations so far."""
        return self._counted.flops + self.uncounted

    @contextmanager
    def running(self, model: nn.Module, *, autocast: bool = False) -> Iterator[Meter]:
        """Count everything that happens inside the block, which must stay on the meta device; in bf16 by `autocast`."""
        self._weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        matrices = [p.shape for p in model.parameters() if p.ndim == 2]
        self._weight_shapes = {*matrices, *(torch.Size(reversed(shape)) for shape in matrices)}
        with ExitStack() as stack:
            # Models pick real positions by a mask (transformers before 5.20 does in SigLIP): all are taken.
            stack.enter_context(_config.patch(meta_nonzero_assume_all_nonzero=True))  # type: ignore[attr-defined]  # it has
            stack.enter_context(self._counted)
            stack.enter_context(FusedAttention(self))
            if autocast:
                stack.enter_context(Autocast(lambda copy: self._weights.add(copy.untyped_storage()._cdata)))
            stack.enter_context(saved_tensors_hooks(self._keep, lambda kept: kept.tensor))
            yield self

    @contextmanager
    def watching(self, part: str, layers: list[nn.Module]) -> Iterator[None]:
        """Record the cost of each of these layers. Of equal layers only the first runs; the others cost the same."""
        self.layers[part] = []
        seen: dict[tuple[Any, ...], LayerCost] = {}
        for layer in layers:
            layer.forward = self._recorded(layer, layer.forward, self.layers[part], seen)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    def _recorded(
        self, layer: nn.Module, forward: Forward, costs: list[LayerCost], seen: dict[tuple[Any, ...], LayerCost]
    ) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            key = (type(layer), hidden.shape, hidden.requires_grad, torch.is_grad_enabled(), _shapes(layer))
            if key in seen:
                first = seen[key]
                costs.append(first)
                first.repeats += 1
                self.saved += first.saved
                self.uncounted += first.flops
                self.causal += first.causal
                return (hidden, None) if first.several else hidden.view_as(hidden)
            bytes_in, weights = hidden.numel() * hidden.element_size(), self.copied_weights(layer)
            cost = seen[key] = LayerCost(inputs=bytes_in, weights=weights)
            costs.append(cost)
            return self._first(cost, forward, hidden, args, kwargs)

        return run

    def _first(
        self, cost: LayerCost, forward: Forward, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        flops, saved, dense, causal = self.flops, self.saved, self.dense, self.causal
        hidden = _marked(hidden, lambda: self._first_is_through(cost))
        out = forward(hidden, *args[1:], **kwargs) if args else forward(**{**kwargs, "hidden_states": hidden})
        cost.flops, cost.saved, cost.several = self.flops - flops, self.saved - saved, isinstance(out, tuple)
        cost.dense, cost.causal = self.dense - dense, self.causal - causal
        cost.again = max(self._at_last_save - flops, 0.0)

        def start() -> None:
            cost.started, cost.causal_started = self.flops, self.causal

        if cost.several:
            return (_marked(out[0], start), *out[1:])
        return _marked(out, start)

    def _first_is_through(self, cost: LayerCost) -> None:
        """In the backward pass, the layer's gradients are done: its equals, which came before, cost as much."""
        self.uncounted += cost.repeats * (self.flops - cost.started)
        self.causal += cost.repeats * (self.causal - cost.causal_started)

    def copied_weights(self, module: nn.Module) -> int:
        """Parameters of its matrix products and convolutions that autocast copies to bf16."""
        return sum(p.numel() for p in module.parameters() if p.ndim > 1 and id(p) not in self.half)

    def _keep(self, tensor: Tensor) -> _Kept:
        self._at_last_save = self.flops
        storage = tensor.untyped_storage()
        if storage._cdata in self._weights:
            return _Kept(tensor)
        first = self._kept.get(storage._cdata)
        if first is None:
            first = self._kept[storage._cdata] = _Kept(tensor)
            total = "dense" if tensor.shape in self._weight_shapes else "saved"
            self._add(total, storage.nbytes())
            finalize(first, self._add, total, -storage.nbytes())  # its graph is gone, or its backward pass through
        return _Kept(tensor, first)

    def _add(self, total: str, size: int) -> None:
        setattr(self, total, getattr(self, total) + size)


@dataclass(eq=False)
class _Kept:
    """A tensor in autograd's graph; through `first` all that share a storage hold on to it."""

    tensor: Tensor
    first: _Kept | None = None


def _shapes(module: nn.Module) -> tuple[tuple[str, torch.Size, bool], ...]:
    return tuple((name, p.shape, p.requires_grad) for name, p in module.named_parameters())


class _Mark(torch.autograd.Function):
    """Identity that calls back when the backward pass comes through."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, reached: Callable[[], None]) -> Tensor:
        ctx.reached = reached
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.reached()
        return grad, None


def _marked(tensor: Tensor, reached: Callable[[], None]) -> Tensor:
    marked: Tensor = _Mark.apply(tensor, reached)  # type: ignore[no-untyped-call]  # torch gives it none
    return marked


class FusedAttention(TorchFunctionMode):
    """Sends every scaled_dot_product_attention to the stand-in."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[n] for n in ("query", "key", "value") if n in kwargs))[:3]
            causal = kwargs.get("is_causal", args[5] if len(args) > 5 else False)
            return _Attention.apply(query, key, value, self.meter, bool(causal))  # type: ignore[no-untyped-call]  # torch gives it none
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Shapes, saved tensors and operations of fused attention: keeps q, k, v, the output and a sum for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, meter: Meter, causal: bool) -> Tensor:
        batch, heads, queries, width = query.shape
        out = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, queries, dtype=torch.float32))
        ctx.meter, ctx.flops = meter, 2.0 * batch * heads * queries * key.shape[-2] * (width + value.shape[-1])
        ctx.causal = ctx.flops if causal else 0.0
        meter.uncounted += ctx.flops
        meter.causal += ctx.causal
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.meter.uncounted += 2 * ctx.flops
        ctx.meter.causal += 2 * ctx.causal
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None
