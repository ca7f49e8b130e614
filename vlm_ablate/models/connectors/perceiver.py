"""Perceiver resampler: learned latents attend to the patches (Flamingo, arXiv:2204.14198; Idefics2, arXiv:2405.02246).

Parameter names are those of transformers' `Idefics2Connector`, so that the part of an Idefics2 state dict under
`model.connector.` loads as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.connectors.configs import PerceiverConfig
from vlm_ablate.models.connectors.layers import INIT_STD, Mlp, gated_mlp, init_linear


class PerceiverResampler(Connector):
    """Modality projection to `hidden`, then `depth` layers in which `latents` queries attend to patches and latents."""

    config: PerceiverConfig

    def __init__(
        self, config: PerceiverConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(config, vision_width=vision_width, hidden=hidden, intermediate=intermediate, grid=grid)
        self.modality_projection = _projection(config.projection, vision_width, hidden, intermediate)
        self.perceiver_resampler = Resampler(config, hidden)
        init_linear(self)

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return self.config.latents

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        tokens: Tensor = self.perceiver_resampler(self.modality_projection(features), mask)
        return tokens


class Resampler(nn.Module):
    """The resampler proper, at one width throughout."""

    def __init__(self, config: PerceiverConfig, hidden: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.latents, hidden))
        if config.latents_init == "ones":
            nn.init.ones_(self.latents)
        else:
            nn.init.normal_(self.latents, std=INIT_STD)
        self.layers = nn.ModuleList([ResamplerLayer(config, hidden) for _ in range(config.depth)])
        self.norm = _norm(config, hidden)

    def forward(self, context: Tensor, mask: Tensor | None) -> Tensor:
        """context (views, patches, hidden), mask (views, patches) -> (views, latents, hidden)."""
        views = context.shape[0]
        latents = self.latents.unsqueeze(0).expand(views, -1, -1)
        attend = None
        if mask is not None:
            keys = torch.cat([mask, mask.new_ones(views, latents.shape[1])], dim=1)
            attend = keys[:, None, None, :].expand(-1, 1, latents.shape[1], -1)
        for layer in self.layers:
            latents = layer(latents, context, attend)
        normed: Tensor = self.norm(latents)
        return normed


class ResamplerLayer(nn.Module):
    """Attention of the latents to [context, latents], then an MLP on the latents; both pre-norm and residual."""

    def __init__(self, config: PerceiverConfig, hidden: int) -> None:
        super().__init__()
        self.input_latents_norm = _norm(config, hidden)
        self.input_context_norm = _norm(config, hidden)
        self.self_attn = ResamplerAttention(config, hidden)
        self.post_attention_layernorm = _norm(config, hidden)
        intermediate = int(config.mlp_ratio * hidden)
        if config.mlp == "gated":
            self.mlp = gated_mlp(hidden, intermediate, hidden)
        else:
            self.mlp = Mlp(hidden, intermediate, hidden, activation="relu", bias=False)

    def forward(self, latents: Tensor, context: Tensor, attend: Tensor | None) -> Tensor:
        attended: Tensor = self.self_attn(self.input_latents_norm(latents), self.input_context_norm(context), attend)
        latents = latents + attended
        added: Tensor = self.mlp(self.post_attention_layernorm(latents))
        return latents + added


class ResamplerAttention(nn.Module):
    """Multi-head attention with grouped key/value heads. Own code only for the optional query/key norm."""

    def __init__(self, config: PerceiverConfig, hidden: int) -> None:
        super().__init__()
        if config.heads % config.kv_heads:
            fitting = ", ".join(str(k) for k in range(1, config.heads + 1) if config.heads % k == 0)
            raise ModelError(
                f"perceiver: {config.kv_heads} key/value heads do not divide {config.heads} heads",
                hint=f"kv_heads can be {fitting}",
            )
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(hidden, config.heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, config.kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, config.kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_dim, hidden, bias=False)
        self.q_norm = _norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = _norm(config, config.head_dim) if config.qk_norm else nn.Identity()

    def forward(self, latents: Tensor, context: Tensor, attend: Tensor | None) -> Tensor:
        views, queries, _ = latents.shape
        source = torch.cat([context, latents], dim=1)
        q = self.q_norm(self.q_proj(latents).view(views, queries, self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(source).view(views, -1, self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(source).view(views, -1, self.kv_heads, self.head_dim).transpose(1, 2)
        groups = self.heads // self.kv_heads
        if attend is not None and groups > 1:  # as transformers does: repeat under a mask, grouped kernels without
            k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
        out = scaled_dot_product_attention(q, k, v, attn_mask=attend, enable_gqa=groups > 1)
        attended: Tensor = self.o_proj(out.transpose(1, 2).reshape(views, queries, self.heads * self.head_dim))
        return attended


def _projection(kind: str, vision_width: int, hidden: int, intermediate: int) -> nn.Module:
    if kind == "gated_mlp":
        return gated_mlp(vision_width, intermediate, hidden)
    if kind == "mlp":
        return Mlp(vision_width, hidden, hidden, activation="gelu", bias=True)
    if kind == "linear":
        return nn.Linear(vision_width, hidden)
    if vision_width != hidden:
        raise ModelError(
            f"perceiver without projection: features are {vision_width} wide and the architecture asks for {hidden}",
            hint="set model.connector.projection to gated_mlp, mlp or linear",
        )
    return nn.Identity()


def _norm(config: PerceiverConfig, width: int) -> nn.Module:
    from transformers.models.idefics2.modeling_idefics2 import Idefics2RMSNorm

    return (Idefics2RMSNorm if config.norm == "rms" else nn.LayerNorm)(width, eps=config.norm_eps)
