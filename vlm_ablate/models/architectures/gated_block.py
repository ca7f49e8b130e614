"""The gated cross-attention block of Flamingo (arXiv:2204.14198, Figure 4) in the form of Idefics1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PretrainedConfig
from transformers.activations import ACT2FN


class GatedBlock(nn.Module):
    """x + tanh(a) * attention(norm(x), images), then x + tanh(b) * mlp(norm(x)); a and b start at zero.

    Heads, grouped key/value heads and MLP width are the language model's. Positions that see no image skip the
    attention, unless they have something else to attend to; the MLP runs everywhere, as in Idefics1, or (`unseeing:
    skip` or `all`) only where an image is seen, as in Mllama.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        vision_width: int,
        *,
        gate: Literal["scalar", "vector"],
        qk_norm: bool,
        unseeing: Literal["mlp", "skip", "all"] = "mlp",
    ) -> None:
        super().__init__()
        self.unseeing = unseeing
        hidden, eps = config.hidden_size, getattr(config, "rms_norm_eps", 1e-6)
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim = getattr(config, "head_dim", None) or hidden // self.heads
        intermediate = getattr(config, "intermediate_size", None) or 4 * hidden
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(vision_width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(vision_width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=eps) if qk_norm else nn.Identity()
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)
        name = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None) or "silu"
        self.activation = ACT2FN[name]
        shape = (1,) if gate == "scalar" else (hidden,)
        self.alpha_cross_attn = nn.Parameter(torch.zeros(shape))
        self.alpha_dense = nn.Parameter(torch.zeros(shape))
        std = getattr(config, "initializer_range", 0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, keys, vision_width) -> keys and values, each (batch, kv_heads, keys, head_dim)."""
        shape = (*states.shape[:2], self.kv_heads, self.head_dim)
        states = states.to(self.k_proj.weight.dtype)
        keys = self.k_norm(self.k_proj(states).view(shape)).transpose(1, 2)
        return keys, self.v_proj(states).view(shape).transpose(1, 2)

    def forward(
        self,
        hidden: Tensor,
        states: Tensor | None = None,
        visible: Tensor | Sequence[Tensor] | None = None,
        otherwise: Tensor | Sequence[Tensor] | None = None,
        keys_values: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """
        Args:
            hidden: (batch, sequence, hidden).
            states: (batch, keys, vision_width) of the images; None when the batch has none.
            visible: (batch, sequence, keys) bool; or several, where stretches of the sequence one after another see as
                many stretches of the keys one after another.
            otherwise: of the same form: what positions attend to that see nothing; None: nothing.
            keys_values: what `keys_values(states)` gave earlier.
        """
        before, visible = hidden, _stretches(visible)
        if states is not None and visible is not None:
            keys = keys_values or self.keys_values(states)
            attended = self._attend(self.input_layernorm(hidden), *keys, _attended(visible, _stretches(otherwise)))
            before = hidden = hidden + torch.tanh(self.alpha_cross_attn) * attended
        states = self.post_attention_layernorm(hidden)
        states = self.down_proj(self.activation(self.gate_proj(states)) * self.up_proj(states))
        hidden = hidden + torch.tanh(self.alpha_dense) * states
        if self.unseeing == "mlp":
            return hidden
        # Where nothing is seen, what the attention gave (nothing, or `otherwise`) stays without an MLP.
        return before if visible is None else torch.where(_sees(visible), hidden, before)

    def _attend(self, hidden: Tensor, keys: Tensor, values: Tensor, visible: Sequence[Tensor]) -> Tensor:
        batch, length, _ = hidden.shape
        queries = self.q_norm(self.q_proj(hidden).view(batch, length, self.heads, self.head_dim)).transpose(1, 2)
        positions, seen = [part.shape[1] for part in visible], [part.shape[2] for part in visible]
        parts = zip(queries.split(positions, 2), keys.split(seen, 2), values.split(seen, 2), visible, strict=True)
        out = torch.cat([self._attend_stretch(*part) for part in parts], 2)
        attended: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return attended.masked_fill(~_sees(visible), 0.0)

    def _attend_stretch(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        if not keys.shape[2]:
            return torch.zeros_like(queries)
        # A row without any key would be NaN; it attends to everything and is zeroed afterwards.
        mask = (visible | ~visible.any(-1, keepdim=True))[:, None]
        grouped = self.heads != self.kv_heads
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=grouped)


def _stretches(masks: Tensor | Sequence[Tensor] | None) -> Sequence[Tensor] | None:
    return [masks] if isinstance(masks, Tensor) else masks


def _sees(visible: Sequence[Tensor]) -> Tensor:
    """(batch, sequence, 1) bool: whether a position sees anything."""
    return torch.cat([part.any(-1, keepdim=True) for part in visible], 1)


def _attended(visible: Sequence[Tensor], otherwise: Sequence[Tensor] | None) -> Sequence[Tensor]:
    if otherwise is None:
        return visible
    pairs = zip(visible, otherwise, strict=True)
    return [own | (~own.any(-1, keepdim=True) & other) for own, other in pairs]
