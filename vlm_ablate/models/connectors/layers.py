"""Layers that several connectors share."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN

from vlm_ablate.errors import ModelError

INIT_STD = 0.02
"""Standard deviation of fresh linear weights, the `initializer_range` of Idefics2, Idefics3 and LLaVA."""


class Mlp(nn.Module):
    """linear_1 -> activation -> linear_2, named as LLaVA's projector so that its weights import by renaming."""

    def __init__(self, width: int, intermediate: int, output: int, *, activation: str, bias: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, intermediate, bias=bias)
        self.act = activation_of(activation)
        self.linear_2 = nn.Linear(intermediate, output, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(self.act(self.linear_1(x)))
        return out


def activation_of(name: str) -> nn.Module:
    """The activation of that transformers name.

    Raises:
        ModelError: transformers has none of that name.
    """
    if name not in ACT2FN:
        raise ModelError(f"unknown activation {name!r}", hint=f"known: {', '.join(sorted(ACT2FN))}")
    activation: nn.Module = ACT2FN[name]
    return activation


def init_linear(module: nn.Module, std: float = INIT_STD) -> None:
    """Fresh weights of every linear layer inside: normal(0, std), biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def gated_mlp(width: int, intermediate: int, output: int) -> nn.Module:
    """Idefics2's SiLU-gated MLP without biases: down(silu(gate(x)) * up(x))."""
    from transformers.models.idefics2.modeling_idefics2 import Idefics2MLP

    return Idefics2MLP(hidden_size=width, intermediate_size=intermediate, output_size=output, hidden_act="silu")
