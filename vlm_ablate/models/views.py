"""The views that a model is built for: what its parts have to know of the ways in which images will be prepared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlm_ablate.config.data import ImageConfig


@dataclass(frozen=True)
class Views:
    """The range of views over all stages and benchmarks of a model."""

    side: int
    """Longest side in pixels of any view: the largest patch grid follows from it."""
    tiled: bool = False
    """Whether images are cut into tiles, whose places are written as tokens."""
    padded: bool = False
    """Whether views of one batch may have different sizes, so that smaller ones are padded."""

    @classmethod
    def of(cls, images: Iterable[ImageConfig]) -> Views:
        """What serves all of these preparations.

        Raises:
            ValueError: there is none.
        """
        kinds = list(images)
        return cls(
            side=max(view_side(image) for image in kinds),
            tiled=any(image.split == "tiles" for image in kinds),
            padded=any(image.resize == "native" and image.split != "tiles" for image in kinds),
        )


def view_side(image: ImageConfig) -> int:
    """Longest side in pixels of one view of images prepared in this way."""
    return image.tile if image.split == "tiles" else image.size
