"""Documents in one row without padding read as they read padded, and never see each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import FalconConfig, Gemma2Config, GPT2Config, LlamaConfig, MambaConfig, MistralConfig, Qwen3Config

from tests.models.conftest import TEXT, save_lm
from tests.models.ragged import a_ragged_batch, joined
from tests.models.support import a_vlm, assert_equal, assert_equal_gradients, open_gates
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models import documents
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.documents import choose, reads_documents
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.vlm import VLM

LANGUAGE = {
    "llama": LlamaConfig(**TEXT),
    "mistral": MistralConfig(**TEXT, sliding_window=4),
    "gemma2": Gemma2Config(**TEXT, head_dim=8, sliding_window=8),
    "qwen3": Qwen3Config(**TEXT, head_dim=16),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2),
}
ARCHITECTURES = {
    "autoregressive": "autoregressive",
    "prefix": dict(name="autoregressive", prompt="bidirectional"),
    "last": dict(name="cross_attention", every=2),
    "skip": dict(name="cross_attention", every=1, attend="all", unseeing="skip"),
    "all": dict(name="cross_attention", every=2, unseeing="all", gate="vector", qk_norm=True),
}
CASES = [(a, "llama") for a in ARCHITECTURES] + [("autoregressive", name) for name in LANGUAGE if name != "llama"]
CASE = pytest.mark.parametrize(("architecture", "language"), CASES, ids=["-".join(case) for case in CASES])


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    made = {}

    def folder(name: str):
        if name not in made:
            made[name] = save_lm(tmp_path_factory.mktemp(name), LANGUAGE[name])
        return made[name]

    return folder


def a_model(siglip, folder, architecture: str = "autoregressive") -> VLM:
    """In float64, reading documents without padding."""
    vlm = open_gates(a_vlm(siglip, folder, architecture=ARCHITECTURES[architecture])).double()
    assert vlm.attend_by("documents")
    return vlm


def gradients(vlm: VLM, batch) -> dict[str, torch.Tensor]:
    vlm.zero_grad()
    vlm(batch).loss_sum.backward()
    return {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}


def assert_reads_alike(vlm: VLM, batch) -> None:
    """Logits, loss and every gradient of the padded and the joined batch."""
    row = joined(batch)
    with torch.no_grad():
        assert_equal(vlm.logits(row)[0], vlm.logits(batch)[batch.attention_mask], name="logits")
    apart, together = vlm(batch), vlm(row)
    assert apart.supervised_tokens == together.supervised_tokens
    assert_equal(together.loss_sum, apart.loss_sum, name="loss")
    expected = gradients(vlm, batch)
    assert len(expected) > 5
    assert_equal_gradients(gradients(vlm, row), expected)


@CASE
def test_documents_in_one_row_read_as_padded_ones(architecture, language, languages, siglip) -> None:
    vlm = a_model(siglip, languages(language), architecture).requires_grad_(True)
    if language == "gemma2":
        vlm.float()  # padding that sees nothing is NaN in float64, as its masks are made for float32
    for seed, images in enumerate([(1, 0, 3, 2, 1), (0, 0, 1), (0, 0)]):
        assert_reads_alike(vlm, a_ragged_batch(vlm, images, seed))


@pytest.mark.parametrize("architecture", ["autoregressive", "last", "all"])
def test_views_of_different_sizes_give_each_document_its_own_tokens(architecture, languages, siglip) -> None:
    vlm = a_vlm(siglip, languages("llama"), connector="linear", architecture=ARCHITECTURES[architecture])
    vlm = open_gates(vlm).double()
    assert vlm.attend_by("documents")
    sizes = [(16, 32), (32, 32), (32, 16)]
    pixels, mask = torch.zeros(3, 3, 32, 32).double(), torch.zeros(3, 32, 32).bool()
    for view, (height, width) in enumerate(sizes):
        mask[view, :height, :width] = True
        pixels[view, :, :height, :width] = torch.randn(3, height, width)
    first, second, third = ([vlm.image_token_id] * vlm.placeholders(*size) for size in sizes)
    documents = [[*first, 5, 6, 7], [8, 9], [*second, 5, *third, 10, 11]]
    ids, segment = torch.zeros(3, max(map(len, documents))).long(), torch.zeros(3, max(map(len, documents))).long()
    for row, document in enumerate(documents):
        ids[row, : len(document)], segment[row, : len(document)] = torch.tensor(document), 1
    labels = ids.masked_fill((segment == 0) | (ids == vlm.image_token_id), -100)
    batch = Batch(ids, segment, labels, pixels, mask, torch.tensor([0, 2, 2]), ["a", "b", "c"], 3)
    assert_reads_alike(vlm.requires_grad_(True), batch)


@pytest.mark.parametrize("architecture", ["autoregressive", "prefix", "all"])
@pytest.mark.parametrize("training", ["lora", "dora"])
def test_adapters_and_checkpointing_change_nothing_of_that(training, architecture, languages, siglip) -> None:
    vlm = a_model(siglip, languages("llama"), architecture)
    stage = Stage(steps=1, batch_size=1, vision=training, language=training, lora=LoraConfig(r=2, dropout=0.0))
    apply_training(vlm, stage)
    torch.manual_seed(1)
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    vlm.double().train()
    batch = a_ragged_batch(vlm)
    assert_reads_alike(vlm, batch)
    kept = gradients(vlm, joined(batch))
    vlm.set_gradient_checkpointing()
    assert_equal_gradients(gradients(vlm, joined(batch)), kept)


@CASE
def test_a_neighbour_moves_nothing(architecture, language, languages, siglip) -> None:
    vlm = a_model(siglip, languages(language), architecture)
    row = joined(a_ragged_batch(vlm))
    inside = row.segment == 3  # has images, and neighbours on both sides
    changed = torch.where(inside & (row.input_ids != vlm.image_token_id), (row.input_ids + 1) % 12 + 4, row.input_ids)
    first, last = (int(torch.where(row.segment[0] == n)[0][0]) for n in (3, 4))
    views = [int((row.input_ids[0, :end] == vlm.image_token_id).sum()) for end in (first, last)]
    views = [place // vlm.placeholders(32, 32) for place in views]
    pixels = row.pixel_values.clone()
    pixels[views[0] : views[1]] += 1
    with torch.no_grad():
        before = vlm.logits(row)
        after = vlm.logits(replace(row, input_ids=changed, pixel_values=pixels))
    assert torch.equal(before[~inside], after[~inside])
    assert not torch.equal(before[inside], after[inside])


@pytest.mark.parametrize("architecture", ["autoregressive", "last"])
def test_greedy_texts_are_those_of_padded_prompts(architecture, languages, siglip) -> None:
    vlm = a_model(siglip, languages("llama"), architecture)
    batch = a_ragged_batch(vlm)
    width, real = batch.input_ids.shape[1], batch.attention_mask
    ids, segment = torch.zeros_like(batch.input_ids), torch.zeros_like(batch.segment)
    for number, length in enumerate(real.sum(1).tolist()):
        ids[number, width - length :], segment[number, width - length :] = batch.input_ids[number, :length], 1
    expected = vlm.generate(replace(batch, input_ids=ids, segment=segment), max_new_tokens=4)
    texts: list[list[int]] = [[] for _ in real]
    prompts = [ids[number, segment[number] > 0].tolist() for number in range(len(ids))]
    row = joined(batch)
    for _ in range(4):
        lengths = [len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
        tokens = torch.tensor([[token for pair in zip(prompts, texts, strict=True) for part in pair for token in part]])
        number = torch.arange(1, len(texts) + 1).repeat_interleave(torch.tensor(lengths))[None]
        labels = torch.full_like(tokens, -100)
        grown = replace(row, input_ids=tokens, segment=number, labels=labels, documents=tuple(lengths))
        with torch.no_grad():
            best = vlm.logits(grown)[0].argmax(-1)
        for text, end in zip(texts, torch.tensor(lengths).cumsum(0) - 1, strict=True):
            text.append(int(best[end]))
    ends = end_ids(vlm.language)
    cut = [text[: next((i for i, token in enumerate(text) if token in ends), 4)] for text in texts]
    assert [vlm.tokenizer.decode(text, skip_special_tokens=True) for text in cut] == expected


def test_a_model_whose_layers_carry_more_than_attention_is_padded(siglip, tmp_path) -> None:
    falcon = FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, bos_token_id=1, eos_token_id=2
    )
    mamba = MambaConfig(hidden_size=32, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    for name, config in {"falcon": falcon, "mamba": mamba}.items():
        vlm = a_vlm(siglip, save_lm(tmp_path / name, config))
        assert not vlm.attend_by("documents")
        assert vlm.attention == "padded"


def test_a_decoder_that_leaks_is_found_out(languages, siglip, monkeypatch) -> None:
    vlm = a_vlm(siglip, languages("llama"))
    assert reads_documents(vlm.language.decoder, 32)
    alone = documents._attend_one

    def leaking(query, key, value, rule, prefix):
        return alone(query, key, value, rule, prefix) + 1e-3 * LAST.setdefault("key", key).mean()

    LAST: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(documents, "_attend_one", leaking)
    assert not reads_documents(vlm.language.decoder, 32)


def test_outside_of_a_row_of_documents_the_model_is_what_it_was(languages, siglip) -> None:
    vlm = a_vlm(siglip, languages("llama"))
    batch = a_ragged_batch(vlm, dtype=torch.float32)
    with torch.no_grad():
        before = vlm.logits(batch)
        assert vlm.attend_by("documents")
        vlm.logits(joined(batch))
        assert torch.equal(vlm.logits(batch), before)
    assert vlm.language.decoder.config._attn_implementation == "sdpa"


def test_what_is_not_there_is_refused_by_name() -> None:
    cpu = torch.device("cpu")
    assert [choose(wanted, cpu, half=False) for wanted in ("auto", "padded", "documents")] == [
        "padded", "padded", "documents",
    ]  # fmt: skip
    for wanted in ("varlen", "flash_attn"):
        with pytest.raises(ModelError, match="GPU"):
            choose(wanted, cpu, half=True)
    with pytest.raises(ModelError, match="bf16"):
        choose("flash_attn", torch.device("cuda"), half=False)
    assert choose("auto", torch.device("cuda"), half=False) == "documents"


def test_what_the_chosen_kernel_did_not_take_is_known(languages, siglip) -> None:
    """It is then computed by document, with the same values."""
    vlm = a_vlm(siglip, languages("llama"))
    batch = joined(a_ragged_batch(vlm, dtype=torch.float32))
    assert vlm.attend_by("documents")
    with torch.no_grad():
        by_document = vlm.logits(batch)
        assert vlm.attended_apart == set()
        assert vlm.attend_by("varlen")
        assert torch.equal(vlm.logits(batch), by_document)
    assert vlm.attended_apart == {"a layer computes in float32"}
    assert vlm.attend_by("documents") and vlm.attended_apart == set()
