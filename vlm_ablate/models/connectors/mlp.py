"""A two-layer MLP on every patch: plain (LLaVA) or gated (Idefics2's modality projection)."""

from __future__ import annotations

from torch import Tensor

from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.connectors.configs import MlpConfig
from vlm_ablate.models.connectors.layers import Mlp, gated_mlp, init_linear


class MlpConnector(Connector):
    """Projects every patch by itself: visual_tokens = patches."""

    config: MlpConfig

    def __init__(
        self, config: MlpConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(config, vision_width=vision_width, hidden=hidden, intermediate=intermediate, grid=grid)
        if config.gated:
            self.modality_projection = gated_mlp(vision_width, config.intermediate or intermediate, hidden)
        else:
            self.modality_projection = Mlp(
                vision_width, config.intermediate or hidden, hidden, activation=config.activation, bias=config.bias
            )
        init_linear(self)

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return grid[0] * grid[1]

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        tokens: Tensor = self.modality_projection(features)
        return tokens
