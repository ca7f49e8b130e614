"""Weights that may be held in bf16 without a digit changing: those that autocast rounds to it at every use."""

from __future__ import annotations

import torch
from torch import nn

_ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rounded_by_autocast(module: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of a module's linear layers and convolutions, as `torch.autocast` to bf16 casts them.

    Norms, tables of positions and class tokens are not among them: there autocast computes in fp32. Nor is what a layer
    shares with a module of another kind, or a layer whose subclass computes in a way of its own.
    """
    rounded: dict[int, nn.Parameter] = {}
    others: set[int] = set()
    for layer in module.modules():
        own = {id(p): p for p in layer.parameters(recurse=False)}
        if any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in _ROUNDED):
            rounded |= own
        else:
            others |= own.keys()
    return [parameter for at, parameter in rounded.items() if at not in others]


def hold_in_bf16(module: nn.Module) -> None:
    """Round those weights for good; the module must then run under autocast to bf16."""
    for parameter in rounded_by_autocast(module):
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
