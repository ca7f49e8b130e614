"""From encoded samples to a padded `Batch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from vlm_ablate.data.encode import EncodedSample
from vlm_ablate.data.normalise import Normaliser
from vlm_ablate.models.batch import IGNORE, Batch


class Collator:
    """Pads sequences on one side and views at the bottom right; normalises pixels.

    Args:
        pad: token id that fills shorter sequences (masked out).
        mean, std: pixel normalisation of the vision encoder, for pixels in [0, 1].
        side: where sequences are padded; generation needs "left".
    """

    def __init__(
        self, pad: int, mean: Sequence[float], std: Sequence[float], side: Literal["right", "left"] = "right"
    ) -> None:
        self.pad, self.side = pad, side
        self.normaliser = Normaliser(mean, std)

    def __call__(self, samples: Sequence[EncodedSample]) -> Batch:
        """One batch, views in reading order. Padding pixels are 0 after normalisation, as in transformers."""
        ids, attention, labels = self._sequences(samples)
        pixels, mask = self._views([view for sample in samples for view in sample.views])
        owners = np.repeat(np.arange(len(samples)), [len(sample.views) for sample in samples])
        per_image = [count for sample in samples for count in sample.views_per_image]
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(attention),
            labels=torch.from_numpy(labels),
            pixel_values=pixels,
            pixel_mask=mask,
            view_sample=torch.from_numpy(owners.astype(np.int64)),
            sample_ids=[sample.id for sample in samples],
            images=len(per_image),
            view_image=torch.from_numpy(np.repeat(np.arange(len(per_image), dtype=np.int64), per_image)),
        )

    def _sequences(self, samples: Sequence[EncodedSample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = len(samples), max(len(sample.input_ids) for sample in samples)
        ids, attention = np.full(shape, self.pad, np.int64), np.zeros(shape, bool)
        labels = np.full(shape, IGNORE, np.int64)
        for row, sample in enumerate(samples):
            length = len(sample.input_ids)
            place = slice(0, length) if self.side == "right" else slice(shape[1] - length, shape[1])
            ids[row, place], attention[row, place], labels[row, place] = sample.input_ids, True, sample.labels
        return ids, attention, labels

    def _views(self, views: list[np.ndarray]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if not views:
            return None, None
        height, width = (max(view.shape[axis] for view in views) for axis in (0, 1))
        if all(view.shape[:2] == (height, width) for view in views):
            return torch.from_numpy(self.normaliser.all(views)), None
        pixels = np.zeros((len(views), 3, height, width), np.float32)
        for out, view in zip(pixels, views, strict=True):
            self.normaliser.into(out, view)
        mask = np.zeros((len(views), height, width), bool)
        for row, view in zip(mask, views, strict=True):
            row[: view.shape[0], : view.shape[1]] = True
        return torch.from_numpy(pixels), torch.from_numpy(mask)
