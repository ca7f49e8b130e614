"""Pixel normalisation: uint8 -> (x / 255 - mean) / std in float32, by one table look-up per value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Normaliser:
    """Maps uint8 pixels to normalised float32. Tables hold what transformers computes, so the result is bit-equal."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        self.mean, self.std = tuple(mean), tuple(std)
        self._tables = [(levels - np.float32(m)) / np.float32(s) for m, s in zip(mean, std, strict=True)]

    def stacked(self, pixels: np.ndarray) -> np.ndarray:
        """(views, height, width, 3) uint8 -> (views, 3, height, width) float32."""
        out = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
        planes = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
        for channel, table in enumerate(self._tables):
            out[:, channel] = table.take(planes[channel], mode="clip")
        return out

    def into(self, out: np.ndarray, pixels: np.ndarray) -> None:
        """Write `pixels` (height, width, 3) uint8 into the top-left of `out` (3, >= height, >= width) float32."""
        height, width = pixels.shape[:2]
        for channel, table in enumerate(self._tables):
            np.take(table, pixels[:, :, channel], out=out[channel, :height, :width], mode="clip")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (3, height, width) float32."""
        out = np.empty((3, *pixels.shape[:2]), np.float32)
        self.into(out, pixels)
        return out
