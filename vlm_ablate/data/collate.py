"""From encoded samples to a `Batch`, padded or without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from vlm_ablate.data.encode import EncodedSample, Layout
from vlm_ablate.data.normalise import Normaliser
from vlm_ablate.models.batch import IGNORE, Batch, Encoded
from vlm_ablate.models.features import view_key


class Collator:
    """Pads sequences on one side, or lays them into one row; pads views at the bottom right; normalises pixels.

    Args:
        pad: token id that fills shorter sequences (masked out).
        mean, std: pixel normalisation of the vision encoder, for pixels in [0, 1].
        side: where sequences are padded; generation needs "left".
        ragged: one row without padding, for models that read documents so (`Batch.documents`).
        expect: told the names of a batch's views (`features.view_key`), which the batch then carries; None: neither.
    """

    def __init__(
        self,
        pad: int,
        mean: Sequence[float],
        std: Sequence[float],
        side: Literal["right", "left"] = "right",
        *,
        ragged: bool = False,
        expect: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        self.pad, self.side, self.ragged, self.expect = pad, side, ragged, expect
        self.normaliser = Normaliser(mean, std)

    def __call__(self, samples: Sequence[EncodedSample]) -> Batch:
        """One batch, views in reading order. Padding pixels are 0 after normalisation, as in transformers."""
        views = [view for sample in samples for view in sample.views]
        pixels, mask = self._views(views)
        per_image = [sample.views_per_image for sample in samples]
        batch = self._batch(samples, [sample.id for sample in samples], per_image, pixels, mask)
        if self.expect is None or not views:
            return batch
        keys = tuple(view_key(view) for view in views)
        self.expect(keys)
        return replace(batch, view_keys=keys)

    def prompts(
        self,
        prompts: Sequence[Layout],
        images: Sequence[Sequence[Sequence[torch.Tensor]]],
        names: Sequence[Sequence[str | bytes]],
    ) -> Batch:
        """One batch of prompts whose images were encoded earlier.

        Args:
            prompts: token ids.
            images: of each prompt its images, of each image its views, each (visual_tokens, width).
            names: of each prompt the names of its images; equal ones have equal views.
        """
        views = [view for pictures in images for picture in pictures for view in picture]
        per_image = [tuple(len(picture) for picture in pictures) for pictures in images]
        rows = [str(row) for row in range(len(prompts))]
        batch = self._batch(prompts, rows, per_image, None, None, Encoded.of(views) if views else None)
        counted = zip((name for row in names for name in row), (n for row in per_image for n in row), strict=True)
        return replace(batch, view_keys=tuple(f"{name!r} {view}".encode() for name, n in counted for view in range(n)))

    def _batch(
        self,
        rows: Sequence[EncodedSample | Layout],
        names: list[str],
        per_image: Sequence[tuple[int, ...]],
        pixels: torch.Tensor | None,
        mask: torch.Tensor | None,
        visual: Encoded | None = None,
    ) -> Batch:
        ids, segment, labels = (_joined if self.ragged else self._sequences)(rows)
        owners = np.repeat(np.arange(len(rows)) * (not self.ragged), [sum(counts) for counts in per_image])
        counts = [count for row in per_image for count in row]
        return Batch(
            input_ids=torch.from_numpy(ids),
            segment=torch.from_numpy(segment),
            labels=torch.from_numpy(labels),
            pixel_values=pixels,
            pixel_mask=mask,
            view_sample=torch.from_numpy(owners.astype(np.int64)),
            sample_ids=names,
            images=len(counts),
            view_image=torch.from_numpy(np.repeat(np.arange(len(counts), dtype=np.int64), counts)),
            visual=visual,
            documents=tuple(len(row.input_ids) for row in rows) if self.ragged else None,
        )

    def _sequences(self, rows: Sequence[EncodedSample | Layout]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = len(rows), max(len(row.input_ids) for row in rows)
        ids, segment = np.full(shape, self.pad, np.int64), np.zeros(shape, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        for number, row in enumerate(rows):
            length = len(row.input_ids)
            place = slice(0, length) if self.side == "right" else slice(shape[1] - length, shape[1])
            ids[number, place], segment[number, place], labels[number, place] = row.input_ids, 1, row.labels
        return ids, segment, labels

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


def _joined(rows: Sequence[EncodedSample | Layout]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sequences one after another in one row."""
    lengths = [len(row.input_ids) for row in rows]
    ids, labels = (np.concatenate([getattr(row, name) for row in rows])[None] for name in ("input_ids", "labels"))
    return ids, np.repeat(np.arange(1, len(rows) + 1), lengths)[None], labels
