"""A linear layer on every patch, or on the flattened sequence of patches."""

from __future__ import annotations

from torch import Tensor, nn

from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.connectors.configs import LinearConfig
from vlm_ablate.models.connectors.layers import init_linear


class LinearConnector(Connector):
    """One linear layer on every patch; with `tokens`, a second one along the sequence makes it shorter.

    A full matrix over the flattened (patches x width) would have 2e11 weights at the paper's size (729 x 1152 to
    64 x 4096), so Idefics2's Table 11 can only mean the factored form: patches -> tokens, then width -> hidden.
    """

    config: LinearConfig

    def __init__(
        self, config: LinearConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(config, vision_width=vision_width, hidden=hidden, intermediate=intermediate, grid=grid)
        patches = grid[0] * grid[1]
        if config.tokens is not None and config.tokens > patches:
            raise ModelError(f"linear connector: {config.tokens} tokens are more than the {patches} patches of a view")
        self.pool = nn.Linear(patches, config.tokens, bias=config.bias) if config.tokens else None
        self.linear = nn.Linear(vision_width, hidden, bias=config.bias)
        init_linear(self)
        if self.pool is not None:
            # Starts near an average over the patches' order of magnitude, so that tokens keep the features' scale.
            nn.init.normal_(self.pool.weight, std=patches**-0.5)

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return self.config.tokens or grid[0] * grid[1]

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        if self.pool is not None:
            features = self._shorten(features, mask)
        tokens: Tensor = self.linear(features)
        return tokens

    def _shorten(self, features: Tensor, mask: Tensor | None) -> Tensor:
        assert self.pool is not None
        if features.shape[1] != self.pool.in_features:
            raise ModelError(
                f"linear connector with tokens={self.config.tokens} was built for {self.pool.in_features} patches "
                f"and got {features.shape[1]}",
                hint="use data.image.resize: square, or a connector that takes any number of patches",
            )
        if mask is not None:
            features = features * mask.unsqueeze(-1)
        pooled: Tensor = self.pool(features.transpose(1, 2))
        return pooled.transpose(1, 2)
