"""`torch.autocast` to bf16 for tensors on the meta device, where torch's own does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_BF16 = frozenset(
    {
        F.linear,
        F.conv1d,
        F.conv2d,
        F.conv3d,
        F.scaled_dot_product_attention,
        torch.einsum,
        torch.addmm,
        torch.baddbmm,
        *(getattr(owner, name) for owner in (torch, Tensor) for name in ("matmul", "mm", "bmm")),
        Tensor.__matmul__,
    }
)
_FP32 = frozenset(
    {
        F.layer_norm,
        F.group_norm,
        F.softmax,
        F.log_softmax,
        F.cross_entropy,
        F.softplus,
        *(
            getattr(owner, name)
            for owner in (torch, Tensor)
            for name in ("softmax", "log_softmax", "pow", "rsqrt", "exp", "log", "norm", "cumsum")
        ),
        Tensor.__pow__,
    }
)
"""Operations that models use and autocast runs in bf16 or fp32 on CUDA (torch's documentation, "CUDA op-specific
behavior"). A CPU keeps norms in bf16, which saves a little less."""


class Autocast(TorchFunctionMode):
    """Casts inputs as autocast would. Copies of parameters are handed to `on_weight`, since they are counted apart."""

    def __init__(self, on_weight: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._on_weight = on_weight
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dtype = torch.bfloat16 if func in _BF16 else torch.float32 if func in _FP32 else None
        if dtype is None:
            return func(*args, **kwargs)
        return func(*(self._cast(a, dtype) for a in args), **{k: self._cast(v, dtype) for k, v in kwargs.items()})

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._cast(item, dtype) for item in value)
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.bfloat16) or value.dtype == dtype:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(dtype)
            self._on_weight(self._copies[id(value)])
        return self._copies[id(value)]
