"""What every vision encoder is: normalised pixels in, one feature per patch out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlm_ablate.config.base import ComponentConfig

SIGLIP_MEAN = (0.5, 0.5, 0.5)
SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class VisionFeatures:
    """Patch features of some views."""

    features: Tensor
    """(views, patches, width)."""
    mask: Tensor | None
    """(views, patches) bool, True = real patch; None when all are real."""
    grid: tuple[int, int]
    """Rows and columns of the (padded) patch grid; rows * columns = patches."""


class VisionEncoder(nn.Module):
    """Base of all vision encoders.

    Subclasses set `backbone` (what is frozen, adapted or trained), `width`, and, where they differ, `mean` and `std`.
    Pixels arrive normalised: values in [0, 1], minus `mean`, over `std`, by channel.
    """

    width: int
    mean: tuple[float, ...] = SIGLIP_MEAN
    std: tuple[float, ...] = SIGLIP_STD
    backbone: nn.Module
    trainable: bool = True
    """False for encoders that have no gradients (ONNX graphs)."""
    unused: tuple[str, ...] = ()
    """Parameters of `backbone` that the forward pass never reads; they are never trained."""
    own_patches: int | None = None
    """How many of a view's patches, the first ones, are its own; the rest are padding that is encoded like them."""
    sees_padding: bool = True
    """Whether a padded view gives its patches other features than the view by itself."""
    cut_away: frozenset[str] = frozenset()
    """Parameters that a checkpoint's tower has and `backbone` was built without, as nothing would read them."""

    def __init__(
        self,
        config: ComponentConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        """
        Args:
            config: the encoder's own configuration.
            device: where the weights are put.
            image_size: longest side in pixels of a view, for encoders that size their position table by it.
            load_weights: False builds the structure only, on the meta device: nothing is read but configurations.

        Raises:
            AssetMissing: the weights or the configuration are not on this machine.
        """
        super().__init__()
        self.config = config

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for views of `height` x `width` pixels. Known before any forward.

        Raises:
            ModelError: the encoder cannot take that size.
        """
        raise NotImplementedError

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        """Encode views.

        Args:
            pixel_values: (views, 3, height, width) float, normalised.
            pixel_mask: (views, height, width) bool, True = real pixel; None when all are real.
        """
        raise NotImplementedError
