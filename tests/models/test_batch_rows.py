"""A batch taken apart into its rows is the same batch: views, images, names, targets and logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.ragged import a_ragged_batch
from tests.models.support import a_vlm, open_gates
from vlm_ablate.models.batch import Batch, Encoded
from vlm_ablate.models.vlm import VLM

IMAGES = [(1, 0, 3, 2, 1), (0, 0, 1), (0, 0), (2, 2)]


@pytest.fixture(scope="module", params=["autoregressive", "last", "all"])
def vlm(request, llama, siglip) -> VLM:
    cross = {"name": "cross_attention", "every": 2, "attend": request.param}
    architecture = "autoregressive" if request.param == "autoregressive" else cross
    return open_gates(a_vlm(siglip, llama, architecture=architecture)).double()


def shuffled_views(batch: Batch, seed: int) -> Batch:
    """Views in another order in memory; those of a row stay in reading order."""
    keys = torch.rand(len(batch.sample_ids), generator=torch.Generator().manual_seed(seed))
    order = keys[batch.view_sample].argsort(stable=True)
    assert batch.pixel_values is not None and batch.view_image is not None
    return replace(batch, pixel_values=batch.pixel_values[order], view_sample=batch.view_sample[order],
                   view_image=batch.view_image[order])  # fmt: skip


@pytest.mark.parametrize("images", IMAGES, ids=str)
def test_rows_together_are_the_batch(images: tuple[int, ...], vlm: VLM) -> None:
    batch = a_ragged_batch(vlm, images)
    batch = replace(batch, view_keys=tuple(bytes([number]) for number in range(len(batch.view_sample))))
    rows = [batch.row(number) for number in range(len(images))]
    assert [row.images for row in rows] == list(images) and sum(images) == batch.images
    assert sum(row.supervised_tokens for row in rows) == batch.supervised_tokens
    assert [row.sequences for row in rows] == [1] * batch.sequences
    assert [row.sample_ids for row in rows] == [[id] for id in batch.sample_ids]
    assert torch.equal(torch.cat([row.targets for row in rows]), batch.targets)
    assert tuple(key for row in rows for key in row.view_keys) == batch.view_keys
    for row, count in zip(rows, images, strict=True):
        assert (row.pixel_values is None) == (count == 0) and not row.view_sample.any()
        assert sorted(set(row.view_image.tolist())) == list(range(count)), "images are numbered from 0 in reading order"
        assert row.view_image.tolist() == sorted(row.view_image.tolist())
    logits = vlm.logits(batch).detach()
    with torch.no_grad():
        for number, row in enumerate(rows):
            real = row.attention_mask[0]
            torch.testing.assert_close(vlm.logits(row)[0, real], logits[number, real], rtol=1e-5, atol=1e-6)
        losses = sum(vlm(row).loss_sum for row in rows)
        torch.testing.assert_close(losses, vlm(batch).loss_sum, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES[3]], ids=str)
def test_the_order_of_rows_and_of_views_in_memory_moves_no_logit(images: tuple[int, ...], vlm: VLM) -> None:
    batch = a_ragged_batch(vlm, images)
    with torch.no_grad():
        logits = vlm.logits(batch)
        torch.testing.assert_close(vlm.logits(shuffled_views(batch, 1)), logits, rtol=1e-5, atol=1e-6)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        moved = replace(
            batch, input_ids=batch.input_ids[order], segment=batch.segment[order], labels=batch.labels[order],
            view_sample=order.argsort()[batch.view_sample], sample_ids=[batch.sample_ids[i] for i in order],
        )  # fmt: skip
        torch.testing.assert_close(vlm.logits(moved), logits[order], rtol=1e-5, atol=1e-6)


def test_a_row_of_states_that_were_encoded_earlier_has_its_own(vlm: VLM) -> None:
    batch = a_ragged_batch(vlm, (1, 0, 2))
    with torch.no_grad():
        encoded = vlm.encode(batch)
    assert encoded is not None
    tokens = torch.full((len(encoded),), encoded.states.shape[1]) if encoded.tokens is None else encoded.tokens
    earlier = replace(batch, pixel_values=None, visual=Encoded(encoded.states, tokens))
    for number in range(3):
        row = earlier.row(number)
        views = batch.view_sample == number
        if not views.any():
            assert row.visual is None and row.images == 0
            continue
        assert torch.equal(row.visual.states, encoded.states[views]) and torch.equal(row.visual.tokens, tokens[views])
        with torch.no_grad():
            torch.testing.assert_close(vlm.logits(row), vlm.logits(batch.row(number)), rtol=1e-6, atol=1e-7)
