"""What a model reads: padded token ids and the image views that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position without loss."""


@dataclass(frozen=True)
class Batch:
    """A batch of interleaved sequences.

    Each view (a whole image, a crop or a tile) stands in `input_ids` as a fixed number of `<image>` placeholders.
    """

    input_ids: Tensor
    """(batch, sequence) long."""
    attention_mask: Tensor
    """(batch, sequence) bool, True = real token."""
    labels: Tensor
    """(batch, sequence) long, IGNORE where nothing is predicted; not shifted."""
    pixel_values: Tensor | None
    """(views, 3, height, width) float32, normalised; None without images."""
    pixel_mask: Tensor | None
    """(views, height, width) bool, True = real pixel; None when all are real."""
    view_sample: Tensor
    """(views,) long: the row of the batch that each view belongs to, views in reading order."""
    sample_ids: list[str]
    images: int
    """Number of images; views may be more."""
    view_image: Tensor | None = None
    """(views,) long: the image that a view is part of, numbered over the batch; None: each view is an image."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in tensors.items() if isinstance(v, Tensor)})

    @property
    def supervised_tokens(self) -> int:
        """Labels that a next-token loss can score: all but those at position 0."""
        return int((self.labels[:, 1:] != IGNORE).sum())
