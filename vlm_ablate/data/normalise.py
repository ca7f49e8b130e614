"""Pixel normalisation: uint8 -> (x / 255 - mean) / std in float32, the same bits as transformers' PIL processors.

They compute float32(x * (1 / 255)) in double precision; x / 255 in single precision gives the same for all 256 values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Normaliser:
    """Normalises channels by `mean` and `std`, which are for pixels in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self._mean, self._std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (self.mean, self.std))

    def into(self, out: np.ndarray, pixels: np.ndarray) -> None:
        """Write `pixels` (height, width, 3) uint8 into the top-left of `out` (3, >= height, >= width) float32."""
        place = out[:, : pixels.shape[0], : pixels.shape[1]]
        place[...] = pixels.transpose(2, 0, 1)
        place /= np.float32(255)
        place -= self._mean
        place /= self._std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (3, height, width) float32."""
        out = np.empty((3, *pixels.shape[:2]), np.float32)
        self.into(out, pixels)
        return out

    def all(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Views of one size, each (height, width, 3) uint8 -> (views, 3, height, width) float32."""
        out = np.empty((len(views), 3, *views[0].shape[:2]), np.float32)
        for place, view in zip(out, views, strict=True):
            self.into(place, view)
        return out
