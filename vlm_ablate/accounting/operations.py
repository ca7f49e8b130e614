"""The operations of torch under a pass on the meta device: how many each does, and shapes that were computed before.

On the meta device an operation is nothing but the shape, strides and type of what it gives, which torch computes in
Python; they follow from those of what it is given. A model does the same few hundred operations over and over, layer by
layer, stage by stage and arm by arm, so they are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Spec = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and type of a tensor that has its storage for itself."""

_known: dict[tuple[Any, ...], tuple[type | None, tuple[Spec | None, ...]]] = {}
"""Operation, and what it is given -> the sequence that it gives (None: a tensor by itself), and its tensors."""
_MOST = 100_000
"""Remembered at a time, some 100 MB: a sweep plans models of many shapes."""
_whole: set[Any] = set()
"""Operations that are not made of others."""


class Operations(TorchDispatchMode):
    """Within the block, adds up operations by torch's own formulas (`torch.utils.flop_counter`, 2 a multiply-add).

    Answers yes when a model asks a meta tensor whether all positions are real, none are packed, and the like.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.flops = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True
        if func not in _whole:
            with self:
                parts = func.decompose(*args, **kwargs)  # type: ignore[attr-defined]  # an OpOverload
            if parts is not NotImplemented:
                return parts
            _whole.add(func)
        out = _computed(func, args, kwargs)
        formula = flop_registry.get(func._overloadpacket)  # type: ignore[attr-defined]
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


class _Unlike(Exception):
    """What an operation is given tells more than shapes: it is done each time."""


def _computed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives: as it gave it before, if it has been given the same."""
    try:
        key = (func, torch.get_default_dtype(), _told(args), *((name, _told(value)) for name, value in kwargs.items()))
        found = _known.get(key)
    except (_Unlike, TypeError):  # TypeError: it cannot be hashed
        return func(*args, **kwargs)
    if found is not None:
        kind, specs = found
        made = [None if spec is None else _empty(spec) for spec in specs]
        return made[0] if kind is None else kind(made)
    out = func(*args, **kwargs)
    several = type(out) in (tuple, list)
    new = _specs(out if several else (out,), args, kwargs)
    if new is not None:
        if len(_known) >= _MOST:
            _known.clear()
        _known[key] = type(out) if several else None, new
    return out


def _told(value: Any) -> Any:
    """All that the result on the meta device can follow from."""
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        if not value.is_meta:
            raise _Unlike
        return tuple(value.shape), value.stride(), value.dtype
    if kind is tuple or kind is list:
        return kind, *map(_told, value)
    if isinstance(value, Tensor):
        raise _Unlike
    return kind, value


def _specs(out: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Spec | None, ...] | None:
    """What is given, if it is new tensors alone: no views, nothing that was changed in place, no numbers."""
    specs: list[Spec | None] = []
    seen = {t.untyped_storage()._cdata for t in _tensors((args, tuple(kwargs.values())))}
    for tensor in out:
        if tensor is None:
            specs.append(None)
            continue
        if type(tensor) is not Tensor or not tensor.is_meta or tensor.storage_offset():
            return None
        shape, strides, storage = tuple(tensor.shape), tensor.stride(), tensor.untyped_storage()
        last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        size = (1 + last) * tensor.element_size() if tensor.numel() else 0
        if storage._cdata in seen or storage.nbytes() != size:
            return None
        seen.add(storage._cdata)
        specs.append((shape, strides, tensor.dtype))
    return tuple(specs) if any(specs) else None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []


def _empty(spec: Spec) -> Tensor:
    shape, strides, dtype = spec
    with torch._C.DisableTorchFunction():
        return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
