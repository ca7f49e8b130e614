"""Random documents with images of one or several views, padded and in one row."""

from __future__ import annotations

from dataclasses import replace

import torch

from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.vlm import VLM


def a_document(vlm: VLM, generator: torch.Generator, images: int) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels, and the views of each image: text, images in it, and an answer that is supervised."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    placeholders = vlm.placeholders(vlm.views.side, vlm.views.side)
    ids, views = [draw(4, 12) for _ in range(draw(1, 5))], []
    for _ in range(images):
        views.append(draw(1, 3))
        ids += [vlm.image_token_id] * (placeholders * views[-1]) + [draw(4, 12) for _ in range(draw(0, 3))]
    answer = [draw(4, 12) for _ in range(draw(1, 9))]
    return ids + answer, [IGNORE] * len(ids) + answer, views


def a_ragged_batch(vlm: VLM, images: tuple[int, ...] = (1, 0, 3, 2, 1), seed: int = 0, dtype=torch.double) -> Batch:
    """Documents of random lengths, padded: of each the number of its images."""
    generator = torch.Generator().manual_seed(seed)
    documents = [a_document(vlm, generator, count) for count in images]
    shape = len(documents), max(len(ids) for ids, _, _ in documents)
    ids, segment, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, IGNORE)
    for row, (own, targets, _) in enumerate(documents):
        ids[row, : len(own)], labels[row, : len(own)] = torch.tensor(own), torch.tensor(targets)
        segment[row, : len(own)] = 1
    counts = [views for _, _, views in documents]
    rows = torch.arange(len(counts)).repeat_interleave(torch.tensor([sum(views) for views in counts]))
    each = torch.tensor([count for views in counts for count in views], dtype=torch.long)
    side, total = vlm.views.side, int(each.sum())
    pixels = torch.randn(total, 3, side, side, generator=generator, dtype=dtype) if total else None
    number = torch.arange(len(each)).repeat_interleave(each)
    return Batch(ids, segment, labels, pixels, None, rows, [*"abcdefgh"[: len(images)]], len(each), number)


def joined(batch: Batch) -> Batch:
    """The rows of a padded batch as the documents of one row without padding."""
    real = batch.attention_mask
    segment = torch.arange(1, len(real) + 1)[:, None].expand_as(real)[real]
    return replace(
        batch,
        input_ids=batch.input_ids[real][None],
        labels=batch.labels[real][None],
        segment=segment[None],
        view_sample=torch.zeros_like(batch.view_sample),
        documents=tuple(real.sum(1).tolist()),
    )
