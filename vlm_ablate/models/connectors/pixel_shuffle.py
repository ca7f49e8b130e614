"""Pixel shuffle and one linear layer (Idefics3, arXiv:2408.12637)."""

from __future__ import annotations

from torch import Tensor, nn

from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.connectors.configs import PixelShuffleConfig
from vlm_ablate.models.connectors.layers import init_linear


class PixelShuffleConnector(Connector):
    """Joins `factor` x `factor` neighbouring patches into one wide token and projects it, without bias.

    Equals transformers' `Idefics3Connector` on square grids and takes any grid that `factor` divides. The mask is not
    used: as in Idefics3, every view is a full tile.
    """

    config: PixelShuffleConfig

    def __init__(
        self, config: PixelShuffleConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(config, vision_width=vision_width, hidden=hidden, intermediate=intermediate, grid=grid)
        self.visual_tokens(grid)
        self.modality_projection = _Projection(vision_width * config.factor**2, hidden)
        init_linear(self)

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        rows, columns = grid
        factor = self.config.factor
        if rows % factor or columns % factor:
            raise ModelError(
                f"pixel shuffle by {factor}: it does not divide the patch grid {rows} x {columns}",
                hint="choose an image size whose patch grid it divides (Idefics3: 364 px / 14 = 26 patches, factor 2)",
            )
        return (rows // factor) * (columns // factor)

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        tokens: Tensor = self.modality_projection.proj(pixel_shuffle(features, grid, self.config.factor))
        return tokens

    def extra_repr(self) -> str:
        return f"factor={self.config.factor}"


class _Projection(nn.Module):
    """Keeps the checkpoint's name `modality_projection.proj`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden, bias=False)


def pixel_shuffle(features: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Space to depth: (views, rows*columns, width) -> (views, rows*columns/factor**2, width*factor**2).

    Tokens are in reading order; inside a token the patches are row by row.
    """
    views, patches, width = features.shape
    rows, columns = grid
    blocks = features.view(views, rows // factor, factor, columns // factor, factor, width)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(views, patches // factor**2, width * factor**2)
