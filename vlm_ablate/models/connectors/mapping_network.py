"""Mapping network: a small transformer over [projected patches, learned queries] (MAPL, arXiv:2210.07179; ClipCap)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig

from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.connectors.configs import MappingNetworkConfig
from vlm_ablate.models.connectors.layers import INIT_STD, init_linear


class MappingNetwork(Connector):
    """The outputs at the queries' places are the visual tokens.

    The blocks are transformers' pre-norm SigLIP encoder layers (self-attention and a 4x GELU MLP).
    """

    config: MappingNetworkConfig

    def __init__(
        self, config: MappingNetworkConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(config, vision_width=vision_width, hidden=hidden, intermediate=intermediate, grid=grid)
        from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

        width = config.width or min(vision_width, hidden)
        if width % config.heads:
            raise ModelError(f"mapping network: {config.heads} heads do not divide the width {width}")
        block = SiglipVisionConfig(
            hidden_size=width, intermediate_size=4 * width, num_attention_heads=config.heads, num_hidden_layers=1
        )
        block._attn_implementation = "sdpa"
        self.input_projection = nn.Linear(vision_width, width)
        self.queries = nn.Parameter(torch.empty(config.tokens, width))
        self.layers = nn.ModuleList([SiglipEncoderLayer(block) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, hidden)
        init_linear(self)
        nn.init.normal_(self.queries, std=INIT_STD)

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return self.config.tokens

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        views = features.shape[0]
        queries = self.queries.expand(views, -1, -1)
        x = torch.cat([self.input_projection(features), queries], dim=1)
        attend = None
        if mask is not None:
            keys = torch.cat([mask, mask.new_ones(views, self.config.tokens)], dim=1)
            attend = keys[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        for layer in self.layers:
            x = layer(x, attention_mask=attend)
        tokens: Tensor = self.output_projection(self.norm(x[:, -self.config.tokens :]))
        return tokens
