"""Models on the meta device without the time that goes into filling parameters that hold no numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    {
        *(f for name, f in vars(init).items() if name.endswith("_") and not name.startswith("_") and callable(f)),
        *(getattr(Tensor, name) for name in ("normal_", "uniform_", "fill_", "zero_", "trunc_normal_", "erfinv_")
          if hasattr(Tensor, name)),
    }
)  # fmt: skip


class Unfilled(TorchFunctionMode):
    """Within the block, what fills a tensor on the meta device returns at once; torch computes its shape in Python."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
