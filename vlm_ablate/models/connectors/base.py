"""What every connector is: patch features in, a known number of visual tokens out."""

from __future__ import annotations

from torch import Tensor, nn

from vlm_ablate.config.base import ComponentConfig


class Connector(nn.Module):
    """Base of all connectors. Subclasses build their layers in `__init__` and define the two methods below."""

    def __init__(
        self, config: ComponentConfig, *, vision_width: int, hidden: int, intermediate: int, grid: tuple[int, int]
    ) -> None:
        """
        Args:
            config: the connector's own configuration.
            vision_width: width of a patch feature.
            hidden: width of a visual token, as the architecture asks for.
            intermediate: width of the language model's MLP, the default of gated projections.
            grid: (rows, columns) of patches of the largest view.

        Raises:
            ModelError: the widths or the grid cannot fit.
        """
        super().__init__()
        self.config = config
        self.vision_width = vision_width
        self.hidden = hidden
        self.intermediate = intermediate
        self.max_grid = grid

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        """Visual tokens of one view whose patch grid is `grid` (rows, columns). Known before any forward."""
        raise NotImplementedError

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Map patch features to visual tokens.

        Args:
            features: (views, patches, vision_width).
            mask: (views, patches) bool, True = real patch; None when all are real.
            grid: rows and columns of the patches; rows * columns = patches.

        Returns:
            (views, visual_tokens(grid), hidden).
        """
        raise NotImplementedError
