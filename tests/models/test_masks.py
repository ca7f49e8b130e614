"""One file of masks: a document reads the same alone, padded on either side, and packed with neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from tests.models.conftest import TEXT, save_lm
from tests.models.support import IMAGE, TEXTS, a_batch, a_vlm, open_gates
from vlm_ablate.config.stages import Stage
from vlm_ablate.models import masks
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.vlm import VLM

SEGMENT = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [0, 0, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1]])


def test_positions_count_from_the_start_of_each_document() -> None:
    expected = [[0, 1, 2, 0, 1, 0, 0, 0], [0, 0, 0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]]
    real = SEGMENT > 0
    assert (masks.positions(SEGMENT) * real).tolist() == expected


def test_lengths_are_those_of_documents() -> None:
    expected = [[3, 3, 3, 2, 2, 1, 1, 1], [1, 1, 3, 3, 3, 3, 3, 3], [8] * 8]
    assert masks.lengths(SEGMENT).tolist() == expected
    assert masks.lengths(SEGMENT[2:]).tolist() == [[8] * 8]
    assert masks.lengths((SEGMENT[:1] == 1).long()).tolist() == [[3, 3, 3, 1, 1, 1, 1, 1]]


def test_a_prefix_ends_at_the_first_supervised_token_of_its_document() -> None:
    labels = torch.full_like(SEGMENT, IGNORE)
    labels[0, 1] = labels[0, 4] = labels[1, 4] = labels[2, 3] = 7
    found = masks.prefix(labels, SEGMENT) & (SEGMENT > 0)
    assert found.int().tolist() == [[1, 0, 0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert masks.prefix(labels[2:], SEGMENT[2:]).int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]


def packed(batch: Batch) -> Batch:
    """The rows of a batch as the documents of one."""
    real = batch.attention_mask
    segment = torch.arange(1, len(real) + 1)[:, None].expand_as(real)[real]
    return replace(
        batch,
        input_ids=batch.input_ids[real][None],
        labels=batch.labels[real][None],
        segment=segment[None],
        view_sample=torch.zeros_like(batch.view_sample),
    )


LANGUAGE = {"llama": LlamaConfig(**TEXT), "mistral": MistralConfig(**TEXT, sliding_window=4)}
ARCHITECTURES = {
    "autoregressive": "autoregressive",
    "prefix": dict(name="autoregressive", prompt="bidirectional"),
    "last": dict(name="cross_attention", every=2),
    "all": dict(name="cross_attention", every=1, attend="all", unseeing="skip"),
}


@pytest.fixture(params=[(a, "llama") for a in ARCHITECTURES] + [("autoregressive", "mistral")], ids="-".join)
def vlm(request, siglip, tmp_path) -> VLM:
    architecture, language = request.param
    folder = save_lm(tmp_path, LANGUAGE[language])
    return open_gates(a_vlm(siglip, folder, architecture=ARCHITECTURES[architecture])).double()


def test_packed_documents_never_see_each_other(vlm: VLM) -> None:
    batch = a_batch(vlm, [*TEXTS, f"one {IMAGE} two"])
    words = (batch.labels != IGNORE).cumsum(1)
    batch = replace(batch, labels=batch.labels.masked_fill(words <= 2, IGNORE))
    with torch.no_grad():
        apart, together = vlm.logits(batch)[batch.attention_mask], vlm.logits(packed(batch))[0]
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)  # the norms compute in float32
    alone, joined = vlm(batch), vlm(packed(batch))
    assert alone.supervised_tokens == joined.supervised_tokens == packed(batch).supervised_tokens
    torch.testing.assert_close(joined.loss_sum, alone.loss_sum, rtol=1e-6, atol=0)


def test_noise_of_a_packed_document_is_that_of_its_own_length(llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    apply_training(vlm, Stage(steps=1, batch_size=1, neftune_alpha=5.0))
    batch = packed(a_batch(vlm))
    clean = vlm.eval()._embed_text(batch)
    noise = (vlm.train()._embed_text(batch) - clean).abs()[0]
    for document in (1, 2, 3):
        own = noise[batch.segment[0] == document]
        bound = 5.0 / (len(own) * 32) ** 0.5
        assert own.max() <= bound * (1 + 1e-5) and own.max() > 0.8 * bound


def test_the_first_token_of_a_document_is_predicted_by_nothing(llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    right, left = a_batch(vlm), a_batch(vlm, left=True)
    assert right.supervised_tokens == left.supervised_tokens == packed(left).supervised_tokens


def test_states_that_were_encoded_earlier_serve_as_pixels_do(vlm: VLM) -> None:
    batch = a_batch(vlm)
    with torch.no_grad():
        earlier = replace(batch, pixel_values=None, visual=vlm.encode(batch))
        assert torch.equal(vlm.logits(earlier), vlm.logits(batch))


@pytest.mark.parametrize("architecture", ["autoregressive", dict(name="cross_attention", every=1)])
@pytest.mark.parametrize("connector", ["linear", "mlp", dict(name="pixel_shuffle", factor=2)])
def test_padding_of_views_adds_no_visual_tokens(connector, architecture, llama, siglip) -> None:
    """Pictures of different shapes in one batch: each gives the tokens that it gives alone."""
    vlm = open_gates(a_vlm(siglip, llama, connector=connector, architecture=architecture)).double()
    sizes = [(16, 32), (32, 32), (32, 16)]
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    pixels = torch.zeros(3, 3, 32, 32, dtype=torch.double)
    for view, (height, width) in enumerate(sizes):
        mask[view, :height, :width] = True
        pixels[view, :, :height, :width] = torch.randn(3, height, width)
    counts = [vlm.placeholders(*size) for size in sizes]
    texts = [f"{IMAGE * counts[0]} what", f"{IMAGE * counts[1]} the {IMAGE * counts[2]} cat"]
    encoded = vlm.tokenizer(texts, padding=True, return_tensors="pt")
    labels = torch.full_like(encoded.input_ids, IGNORE)
    rows = torch.tensor([0, 1, 1])
    batch = Batch(encoded.input_ids, encoded.attention_mask, labels, pixels, mask, rows, ["a", "b"], 3)
    assert batch.view_sizes == sizes
    with torch.no_grad():
        visual = vlm.encode(batch)
        for view, (height, width) in enumerate(sizes):
            alone = vlm.encode_images(pixels[view : view + 1, :, :height, :width], None)[0]
            assert visual.own[view].sum() == len(alone) == vlm.visual_tokens(height, width)
            torch.testing.assert_close(visual.states[view][visual.own[view]], alone)
        first = replace(
            batch,
            input_ids=batch.input_ids[:1],
            segment=batch.segment[:1],
            labels=labels[:1],
            pixel_values=pixels[:1, :, :16],
            pixel_mask=None,
            view_sample=rows[:1],
        )
        real = batch.attention_mask[0]
        torch.testing.assert_close(vlm.logits(batch)[0][real], vlm.logits(first)[0][real], rtol=1e-5, atol=1e-6)
