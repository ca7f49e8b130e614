"""Batches of random documents, each a picture of several views and a text: in one row, padded, and as transformers
takes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from shapes import Shape
from torch import Tensor

from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.vlm import VLM


def documents_of(vlm: VLM, shape: Shape, *, seed: int) -> Batch:
    """One row of `shape.documents` documents, on the host."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    tokens, words = vlm.placeholders(shape.side, shape.side), min(vlm.image_token_id, 250)
    ids, labels, views, lengths = [], [], [], []
    for _ in range(shape.documents):
        views.append(shape.views[draw(0, len(shape.views) - 1)])
        text = torch.randint(4, words, (draw(*shape.texts),), generator=generator)
        page = torch.full((tokens * views[-1],), vlm.image_token_id)
        ids += [page, text]
        labels += [torch.full_like(page, IGNORE), text]
        lengths.append(len(page) + len(text))
    count = sum(views)
    return Batch(
        input_ids=torch.cat(ids)[None],
        segment=torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths))[None],
        labels=torch.cat(labels)[None],
        pixel_values=torch.randn(count, 3, shape.side, shape.side, generator=generator),
        pixel_mask=None,
        view_sample=torch.zeros(count, dtype=torch.long),
        sample_ids=[str(number) for number in range(shape.documents)],
        images=len(views),
        view_image=torch.arange(len(views)).repeat_interleave(torch.tensor(views)),
        documents=tuple(lengths),
        view_keys=tuple(f"{seed:8}{view:8}".encode() for view in range(count)),
    )


def padded(batch: Batch) -> Batch:
    """The documents of one row as rows, padded on the right. Each holds one picture."""
    assert batch.documents is not None and batch.view_image is not None
    lengths = list(batch.documents)

    def rows(values: Tensor, fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(values[0].split(lengths), batch_first=True, padding_value=fill)

    return replace(
        batch,
        input_ids=rows(batch.input_ids, 0),
        segment=rows(batch.segment, 0).clamp(max=1),
        labels=rows(batch.labels, IGNORE),
        view_sample=batch.view_image,
        documents=None,
    )


def theirs_of(batch: Batch, image_id: int, tokens: int) -> dict[str, Tensor]:
    """A padded batch as Idefics2 and Idefics3 of transformers take it: of each row as many views, of some all zeros.

    Args:
        batch: padded.
        image_id: of the placeholders.
        tokens: placeholders of a view.
    """
    assert batch.pixel_values is not None
    counts = ((batch.input_ids == image_id).sum(1) // tokens).tolist()
    pixels = batch.pixel_values.new_zeros(len(counts), max(counts), *batch.pixel_values.shape[1:])
    for row, count in enumerate(counts):
        pixels[row, :count] = batch.pixel_values[batch.view_sample == row]
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask.long(),
        "labels": batch.labels,
        "pixel_values": pixels,
    }
