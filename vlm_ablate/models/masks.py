"""Who sees what: positions, lengths, prefixes, attention among text positions, and the views that they see.

Everything follows from `Batch.segment`: (batch, sequence) long, 0 at padding, 1, 2, ... for the documents that stand
in a row one after another. A position sees positions and views of its own segment only, so that a document reads the
same alone, padded on either side, or packed with neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from vlm_ablate.models.batch import IGNORE

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Mask = Tensor | dict[str, Tensor]
"""As a decoder of transformers takes it: (batch, sequence) bool, (batch, 1, queries, keys), or one of these a kind of
layer."""


def packed(segment: Tensor) -> bool:
    """Whether any row holds more than one document; on the meta device, where nothing is known, not."""
    return not segment.is_meta and segment.numel() > 0 and int(segment.max()) > 1


def positions(segment: Tensor) -> Tensor:
    """(batch, sequence) long: each position's distance from the start of its own segment; 0 and up, also at padding."""
    real = segment > 0
    index = real.long().cumsum(1) - 1
    first = real & (segment != torch.nn.functional.pad(segment[:, :-1], (1, 0)))
    start = (index * first).cummax(1).values
    return (index - start).clamp(min=0)


def lengths(segment: Tensor) -> Tensor:
    """(batch, sequence) long: the length of the segment that a position belongs to; 1 at padding."""
    real = segment > 0
    if not packed(segment):
        return torch.where(real, real.sum(1, keepdim=True), 1)
    counts = torch.zeros(len(segment), int(segment.max()) + 1, dtype=torch.long, device=segment.device)
    counts.scatter_add_(1, segment, torch.ones_like(segment))
    return torch.where(real, counts.gather(1, segment), 1)


def prefix(labels: Tensor, segment: Tensor) -> Tensor:
    """(batch, sequence) bool: positions before the first supervised one of their segment, which is all of them where
    nothing is supervised."""
    supervised = (labels != IGNORE).long().cumsum(1)
    if not packed(segment):
        return supervised == 0
    before = torch.zeros(len(segment), int(segment.max()) + 2, dtype=torch.long, device=segment.device)
    # One place on: what was supervised up to the end of each segment.
    before.scatter_reduce_(1, segment + 1, supervised * (segment > 0), "amax")
    return supervised == before.cummax(1).values.gather(1, segment)


def decoder_mask(
    config: PretrainedConfig, embeds: Tensor, segment: Tensor, both_ways: Tensor | None = None
) -> Mask:
    """What a decoder of transformers gets as `attention_mask` for whole sequences.

    One document a row, causal everywhere, is the plain (batch, sequence) mask of real positions.

    Args:
        config: the decoder's.
        embeds: (batch, sequence, hidden), for their type and device.
        segment: (batch, sequence) long.
        both_ways: (batch, sequence) bool: positions that also see what follows them among each other, in their own
            segment (PaliGemma's prefix, arXiv:2407.07726); None: none.
    """
    real, several = segment > 0, packed(segment)
    if both_ways is None and not several:
        return real
    # Padding reads along with the first document (nothing reads padding): what sees nothing is NaN in some decoders.
    reader = segment.clamp(min=1)

    def same(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return reader[row, query] == segment[row, key]

    mask: Mask = create_masks_for_generate(
        config,
        inputs_embeds=embeds,
        attention_mask=real,
        past_key_values=None,
        and_mask_function=same if several else None,
        block_sequence_ids=None if both_ways is None else torch.where(both_ways, reader, -1),
    )
    return mask


def visible_views(is_image: Tensor, segment: Tensor, image: Tensor, *, last_only: bool) -> Tensor:
    """Which views a position sees: those of its own segment at or before it, all of them or those of the last image.

    Args:
        is_image: (batch, sequence) bool, True at a view's placeholder, one a view.
        segment: (batch, sequence) long.
        image: (batch, views) long: number of the image that a view is part of, -1 for padding.
        last_only: only the views of the last image.

    Returns:
        (batch, sequence, views) bool.
    """
    seen = is_image.long().cumsum(1)
    slots = torch.arange(image.shape[1], device=image.device)
    visible = slots < seen[..., None]
    if packed(segment):
        visible &= own_views(is_image, segment, image.shape[1])
    if not last_only:
        return visible
    last = image.gather(1, (seen - 1).clamp(min=0))
    return visible & (image[:, None, :] == last[..., None])


def own_views(is_image: Tensor, segment: Tensor, views: int) -> Tensor:
    """(batch, sequence, views) bool: the views of a position's own segment, before it and after it.

    Args:
        is_image: (batch, sequence) bool, True at a view's placeholder, one a view.
        segment: (batch, sequence) long.
        views: most of a row.
    """
    # The segment of a view is that of its placeholder; slot 0 of the table takes what is no placeholder.
    place = is_image.long().cumsum(1) * is_image
    owner = segment.new_zeros(len(segment), views + 1).scatter(1, place, segment)[:, 1:]
    return (owner[:, None, :] == segment[..., None]) & (owner > 0)[:, None, :]
