"""What a model reads: padded token ids and the image views that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORE = -100
"""Label of a position without loss."""


@dataclass(frozen=True)
class Encoded:
    """Visual tokens of some views, as connectors give them."""

    states: Tensor
    """(views, visual_tokens, width), zeros after a view's own tokens."""
    tokens: Tensor | None = None
    """(views,) long: how many of `states` are a view's own, the first ones; None: all."""

    @classmethod
    def of(cls, views: Sequence[Tensor]) -> Encoded:
        """From each view's (visual_tokens, width)."""
        counts = [len(view) for view in views]
        if len(set(counts)) == 1:
            return cls(torch.stack(list(views)))
        return cls(pad_sequence(list(views), batch_first=True), torch.tensor(counts, device=views[0].device))

    @property
    def own(self) -> Tensor | None:
        """(views, visual_tokens) bool, True at a view's own tokens; None: everywhere."""
        if self.tokens is None:
            return None
        return torch.arange(self.states.shape[1], device=self.states.device) < self.tokens[:, None]

    def __len__(self) -> int:
        return len(self.states)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Encoded:
        """The same on `device`."""
        tokens = None if self.tokens is None else self.tokens.to(device, non_blocking=non_blocking)
        return Encoded(self.states.to(device, non_blocking=non_blocking), tokens)

    def pin_memory(self) -> Encoded:
        """The same in page-locked memory."""
        return Encoded(self.states.pin_memory(), None if self.tokens is None else self.tokens.pin_memory())


def sizes_of(pixel_values: Tensor, pixel_mask: Tensor | None) -> list[tuple[int, int]]:
    """(height, width) in pixels of each view without its padding."""
    if pixel_mask is None:
        height, width = pixel_values.shape[-2:]
        return [(height, width)] * len(pixel_values)
    heights, widths = pixel_mask.any(2).sum(1).tolist(), pixel_mask.any(1).sum(1).tolist()
    return list(zip(heights, widths, strict=True))


@dataclass(frozen=True)
class Batch:
    """A batch of interleaved sequences.

    Each view (a whole image, a crop or a tile) stands in `input_ids` as so many `<image>` placeholders as the
    architecture asks for. A view comes as pixels, or as visual tokens that were encoded earlier.
    """

    input_ids: Tensor
    """(batch, sequence) long."""
    segment: Tensor
    """(batch, sequence) long: 0 at padding, 1, 2, ... for the documents of a row; see `masks.py`."""
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
    visual: Encoded | None = None
    """The views' visual tokens, in the place of `pixel_values`."""
    documents: tuple[int, ...] | None = None
    """Lengths of the documents of a batch that is one row without padding; None: a row a document, padded, or rows of
    several documents."""
    view_keys: tuple[bytes, ...] | None = None
    """Names of the views' contents, in the order of `pixel_values` or `visual`: by them a frozen encoder's output is
    looked up, and prompts that begin alike are known."""
    deal: int = 0
    """Digest of what its step was dealt to several ranks by, which all of them have alike; 0: it was not dealt so."""
    skipped: int = 0
    """Unusable samples whose places others took."""

    @property
    def sequences(self) -> int:
        """Documents of a batch without padding, rows of any other."""
        return len(self.input_ids) if self.documents is None else len(self.documents)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(self, **{k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors().items()})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return replace(self, **{k: v.pin_memory() for k, v in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor | Encoded)}

    def row(self, number: int) -> Batch:
        """One row of it alone, padding of its text included."""
        one, views = slice(number, number + 1), self.view_sample == number
        count, image = int(views.sum()), self.view_image
        visual = self.visual
        if visual is not None:
            visual = Encoded(visual.states[views], None if visual.tokens is None else visual.tokens[views])
        return Batch(
            input_ids=self.input_ids[one],
            segment=self.segment[one],
            labels=self.labels[one],
            pixel_values=None if self.pixel_values is None or not count else self.pixel_values[views],
            pixel_mask=None if self.pixel_mask is None or not count else self.pixel_mask[views],
            view_sample=torch.zeros_like(self.view_sample[views]),
            sample_ids=self.sample_ids[one],
            images=count if image is None else len(image[views].unique()),
            view_image=None if image is None else image[views].unique(return_inverse=True)[1],
            visual=visual if count else None,
            view_keys=self.view_keys and tuple(k for k, own in zip(self.view_keys, views.tolist(), strict=True) if own),
        )

    @property
    def attention_mask(self) -> Tensor:
        """(batch, sequence) bool, True = real token."""
        return self.segment > 0

    @property
    def view_sizes(self) -> list[tuple[int, int]]:
        """(height, width) in pixels of each view without its padding; empty where there are no pixels."""
        return [] if self.pixel_values is None else sizes_of(self.pixel_values, self.pixel_mask)

    @property
    def targets(self) -> Tensor:
        """(batch, sequence - 1) long: what each position but the last is to predict, IGNORE for nothing.

        The first token of a document follows from nothing.
        """
        inside = self.segment[:, 1:] == self.segment[:, :-1]
        return self.labels[:, 1:].masked_fill(~inside, IGNORE)

    @property
    def supervised_tokens(self) -> int:
        """Labels that a next-token loss scores."""
        return int((self.targets != IGNORE).sum())
