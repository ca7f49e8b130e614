"""Masks, positions and targets of random rows against loops over positions, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig

from tests.models.conftest import TEXT
from vlm_ablate.models import masks
from vlm_ablate.models.batch import IGNORE, Batch, Encoded, sizes_of

SEEDS = range(16)


def some_rows(seed: int) -> Tensor:
    """(rows, sequence) segments: one document a row or several, padded on the left, on the right, or not at all."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    most, rows = draw(1, 3) if seed % 3 else 1, []
    for _ in range(draw(1, 4)):
        rows.append([number for number in range(1, draw(1, most) + 1) for _ in range(draw(1, 5))])
    width = max(map(len, rows)) + draw(0, 2)
    padding = [[0] * (width - len(row)) for row in rows]
    return torch.tensor([pad + row if seed % 2 else row + pad for row, pad in zip(rows, padding, strict=True)])


def some_labels(segment: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000)
    learned = (torch.rand(segment.shape, generator=generator) < 0.3) & (segment > 0)
    return torch.where(learned, torch.randint(4, 12, segment.shape, generator=generator), IGNORE)


def same_document(segment: Tensor, row: int, one: int, other: int) -> bool:
    return bool(segment[row, one] == segment[row, other] > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_positions_lengths_and_prefixes_are_counted_within_a_document(seed: int) -> None:
    segment = some_rows(seed)
    labels = some_labels(segment, seed)
    positions, lengths, prefix = masks.positions(segment), masks.lengths(segment), masks.prefix(labels, segment)
    assert masks.packed(segment) == (int(segment.max()) > 1)
    for row, column in (segment > 0).nonzero().tolist():
        own = [at for at in range(segment.shape[1]) if same_document(segment, row, column, at)]
        assert positions[row, column] == column - own[0] and lengths[row, column] == len(own)
        assert bool(prefix[row, column]) == all(labels[row, at] == IGNORE for at in own if at <= column)
    assert (positions[segment == 0] >= 0).all() and (lengths[segment == 0] == 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_each_position_predicts_what_follows_it_in_its_document(seed: int) -> None:
    segment = some_rows(seed)
    labels = some_labels(segment, seed)
    batch = Batch(torch.zeros_like(segment), segment, labels, None, None, torch.zeros(0).long(), [], 0)
    expected = [
        [int(labels[row, at + 1]) if same_document(segment, row, at, at + 1) else IGNORE
         for at in range(segment.shape[1] - 1)] for row in range(len(segment))
    ]  # fmt: skip
    assert batch.targets.tolist() == expected
    assert batch.supervised_tokens == sum(label != IGNORE for row in expected for label in row)


@pytest.mark.parametrize("last_only", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_views_are_seen_by_their_own_document_from_their_place_on(seed: int, last_only: bool) -> None:
    segment, generator = some_rows(seed), torch.Generator().manual_seed(seed)
    is_image = (torch.rand(segment.shape, generator=generator) < 0.4) & (segment > 0)
    places = [row.nonzero().flatten().tolist() for row in is_image]
    most = max(1, *map(len, places))
    image, draws = torch.full((len(segment), most), -1), torch.rand(len(segment), most, generator=generator)
    for row, own in enumerate(places):  # an image of several views is of one document
        number = 0
        for slot, place in enumerate(own):
            fresh = slot and not (same_document(segment, row, own[slot - 1], place) and draws[row, slot] < 0.5)
            number += bool(fresh)
            image[row, slot] = number
    found = masks.visible_views(is_image, segment, image, last_only=last_only)
    inside = masks.own_views(is_image, segment, most)
    for row, column in (segment > 0).nonzero().tolist():
        own = [slot for slot, place in enumerate(places[row]) if same_document(segment, row, place, column)]
        before = [slot for slot in own if places[row][slot] <= column]
        shown = [slot for slot in before if not last_only or image[row, slot] == image[row, before[-1]]]
        assert found[row, column].nonzero().flatten().tolist() == shown
        assert inside[row, column].nonzero().flatten().tolist() == own


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:12])
def test_a_decoder_sees_what_came_before_in_its_document_and_its_prompt(
    seed: int, both_ways: bool, window: int | None
) -> None:
    """A window bounds what was before, not a prompt that sees itself both ways."""
    segment = some_rows(seed)
    config = LlamaConfig(**TEXT) if window is None else MistralConfig(**TEXT, sliding_window=window)
    config._attn_implementation = "sdpa"
    prefix = masks.prefix(some_labels(segment, seed), segment) if both_ways else None
    mask = masks.decoder_mask(config, torch.zeros(*segment.shape, 8), segment, prefix)
    if mask.ndim == 2:
        assert torch.equal(mask, segment > 0) and prefix is None and not masks.packed(segment)
        return
    assert mask.shape == (len(segment), 1, segment.shape[1], segment.shape[1])
    for row, column in (segment > 0).nonzero().tolist():
        seen = [
            at
            for at in range(segment.shape[1])
            if same_document(segment, row, column, at)
            and (0 <= column - at < (window or 99) or (prefix is not None and prefix[row, column] and prefix[row, at]))
        ]
        assert mask[row, 0, column].nonzero().flatten().tolist() == seen
    if window is None and seed % 2 == 0:
        assert mask.any(-1).all(), "padding sees something, or it is NaN in some decoders"


@pytest.mark.parametrize("seed", range(10))
def test_views_of_any_lengths_are_kept_as_their_own_tokens(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5 if seed % 2 else 2, (4,), generator=generator).tolist()
    views = [torch.randn(count, 3, generator=generator) for count in counts]
    encoded = Encoded.of(views)
    assert len(encoded) == 4 and (encoded.own is None) == (len(set(counts)) == 1)
    for number, view in enumerate(views):
        own = encoded.states[number] if encoded.own is None else encoded.states[number][encoded.own[number]]
        assert torch.equal(own, view)
        assert not encoded.states[number, len(view) :].any(), "zeros after a view's own tokens"


@pytest.mark.parametrize("seed", range(10))
def test_a_views_size_is_that_without_its_padding(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 7, (3, 2), generator=generator).tolist()
    pixels, mask = torch.zeros(3, 3, 6, 6), torch.zeros(3, 6, 6, dtype=torch.bool)
    for view, (height, width) in enumerate(sizes):
        mask[view, :height, :width] = True
    assert sizes_of(pixels, mask) == [tuple(size) for size in sizes]
    assert sizes_of(pixels, None) == [(6, 6)] * 3
    empty = Batch(torch.ones(1, 1).long(), torch.ones(1, 1).long(), torch.ones(1, 1).long(), None, None,
                  torch.zeros(0).long(), ["a"], 0)  # fmt: skip
    assert empty.view_sizes == [] and replace(empty, pixel_values=pixels, pixel_mask=mask).view_sizes == [
        tuple(size) for size in sizes
    ]
