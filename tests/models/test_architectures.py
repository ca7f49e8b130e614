"""The seam: what text positions see, and that batches, padding, caches and checkpointing change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from tests.models.conftest import TEXT, save_lm
from tests.models.support import IMAGE, a_batch, a_vlm, assert_same_greedy, logits_of, margins, open_gates
from vlm_ablate.config.data import ImageConfig, Preparation
from vlm_ablate.config.stages import Stage
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.sample import Sample, Text
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.generation import decode
from vlm_ablate.models.masks import visible_views
from vlm_ablate.models.vlm import VLM, build_vlm

AR, CROSS = "autoregressive", "cross_attention"
ARCHITECTURES = [AR, dict(name=CROSS, every=2), dict(name=CROSS, every=1, attend="all", gate="vector", qk_norm=True)]
GPT2 = dict(n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LANGUAGE = {
    "llama": LlamaConfig(**TEXT, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**TEXT, tie_word_embeddings=True),
    "mistral": MistralConfig(**TEXT, sliding_window=8),
    "gemma2": Gemma2Config(**TEXT, head_dim=8, sliding_window=8),
    "qwen3": Qwen3Config(**TEXT, head_dim=16),
    "gpt2": GPT2Config(**GPT2),
}


@pytest.fixture(params=ARCHITECTURES, ids=["autoregressive", "last", "all"])
def vlm(request, llama, siglip) -> VLM:
    return open_gates(a_vlm(siglip, llama, architecture=request.param))


@pytest.mark.parametrize("name", LANGUAGE)
def test_with_closed_gates_the_model_is_the_text_model(name: str, siglip, tmp_path) -> None:
    folder = save_lm(tmp_path, LANGUAGE[name])
    text_model = AutoModelForCausalLM.from_pretrained(folder).eval()
    vlm = a_vlm(siglip, folder, architecture=dict(name=CROSS, every=2))
    texts = ["the cat says no", "what is it ? the dog"]
    batch = a_batch(vlm, texts)
    positions = (batch.attention_mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = text_model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions).logits
    found = logits_of(vlm, batch)[..., : expected.shape[-1]]
    assert torch.equal(found, expected)
    # and images change nothing either
    with_images = a_batch(vlm, [f"{IMAGE} {text}" for text in texts])
    changed = with_images.pixel_values.flip(0)
    other = Batch(**{**vars(with_images), "pixel_values": changed})
    assert torch.equal(logits_of(vlm, with_images), logits_of(vlm, other))
    assert not torch.equal(logits_of(open_gates(vlm), with_images), logits_of(vlm, other))


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize("architecture", [AR, CROSS])
def test_generation_is_the_argmax_loop(name: str, architecture: str, siglip, tmp_path) -> None:
    vlm = open_gates(a_vlm(siglip, save_lm(tmp_path, LANGUAGE[name]), architecture=architecture))
    batch = a_batch(vlm, left=True)
    found, ids, apart = vlm.generate(batch, max_new_tokens=10), batch.input_ids, []
    longer = replace(batch, labels=torch.full_like(ids, -100))
    for _ in range(10):
        with torch.no_grad():
            logits = vlm.logits(longer)[:, -1]
        following = logits.argmax(-1, keepdim=True)
        apart.append(margins(logits))
        # a generated <image> is a token like any other; the loop must not take it for a placeholder
        assert not (following == vlm.image_token_id).any()
        ids = torch.cat([ids, following], 1)
        one = torch.ones_like(following)
        longer = replace(
            longer,
            input_ids=ids,
            segment=torch.cat([longer.segment, one], 1),
            labels=torch.cat([longer.labels, -100 * one], 1),
        )
    ends = {vlm.tokenizer.eos_token_id, vlm.tokenizer.convert_tokens_to_ids("<end_of_utterance>")}
    chosen = ids[:, batch.input_ids.shape[1] :].tolist()
    for row, text, sure in zip(chosen, found, torch.stack(apart, 1), strict=True):
        cut = next((i for i, token in enumerate(row) if token in ends), len(row))
        assert_same_greedy(text, row[:cut], sure, vlm.tokenizer)


def test_stop_strings(vlm: VLM) -> None:
    batch = a_batch(vlm, left=True)

    def generate(stop: list[str]) -> list[str]:
        return vlm.generate(batch, max_new_tokens=8, stop=stop)

    free = generate([])
    word = free[0].split()[1]
    assert generate([word]) == [text.split(word)[0] for text in free]
    assert generate(["never said"]) == free


def test_right_padded_prompts_are_refused(vlm: VLM) -> None:
    batch = a_batch(vlm)
    with pytest.raises(ModelError, match="left"):
        vlm.generate(batch, max_new_tokens=1)


@pytest.mark.parametrize("left", [False, True])
def test_neighbours_and_padding_change_nothing(vlm: VLM, left: bool) -> None:
    together = a_batch(vlm, left=left)
    logits, start = logits_of(vlm, together), 0
    for row in range(3):
        views = int((together.view_sample == row).sum())
        real = together.attention_mask[row]
        alone = Batch(
            together.input_ids[row : row + 1, real],
            torch.ones(1, int(real.sum()), dtype=torch.long),
            together.labels[row : row + 1, real],
            together.pixel_values[start : start + views] if views else None,
            None,
            torch.zeros(views, dtype=torch.long),
            ["alone"],
            views,
        )
        start += views
        torch.testing.assert_close(logits[row][real], logits_of(vlm, alone)[0], rtol=1e-4, atol=1e-5)
    # order of the views in memory does not matter as long as they name their row
    order = torch.tensor([1, 0, 2])
    shuffled = Batch(
        **{**vars(together), "pixel_values": together.pixel_values[order], "view_sample": together.view_sample[order]}
    )
    swapped = together.view_sample[order].argsort(stable=True)
    assert torch.equal(order[swapped], torch.arange(3))
    torch.testing.assert_close(logits_of(vlm, shuffled), logits, rtol=1e-5, atol=1e-6)


def test_loss_is_the_sum_over_supervised_tokens(vlm: VLM) -> None:
    batch = a_batch(vlm)
    logits, output = logits_of(vlm, batch), vlm(batch)
    expected, count = 0.0, 0
    for row in range(3):
        for position in range(1, batch.labels.shape[1]):
            label = int(batch.labels[row, position])
            if label >= 0:
                expected -= logits[row, position - 1].log_softmax(-1)[label]
                count += 1
    assert output.supervised_tokens == batch.supervised_tokens == count
    torch.testing.assert_close(output.loss_sum, expected, rtol=1e-5, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients_even_for_two_forwards(vlm: VLM) -> None:
    gradients = []
    for checkpointing in (False, True):
        stage = Stage(steps=1, batch_size=1, language="lora", vision="full")
        apply_training(vlm, stage, gradient_checkpointing=checkpointing)
        vlm.train()
        for module in vlm.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        vlm.zero_grad()
        losses = [vlm(a_batch(vlm)), vlm(a_batch(vlm, [f"the {IMAGE} dog", "a cat"], seed=1))]
        sum(output.loss_sum for output in losses).backward()
        gradients.append({n: p.grad.clone() for n, p in vlm.named_parameters() if p.grad is not None})
    assert vlm.language.model.is_gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("texts", [None, ["the dog"]], ids=["images", "text"])
def test_checkpointed_blocks_are_computed_again(texts: list[str] | None, llama, siglip) -> None:
    vlm = open_gates(a_vlm(siglip, llama, architecture=dict(name=CROSS, every=2))).train()
    calls: list[int] = []
    for i, block in enumerate(vlm.architecture.blocks):
        block.down_proj.register_forward_hook(lambda *_, i=i: calls.append(i))
    for checkpointing, expected in ((True, [0, 1, 1, 0]), (False, [0, 1])):
        apply_training(vlm, Stage(steps=1, batch_size=1), gradient_checkpointing=checkpointing)
        calls.clear()
        vlm(a_batch(vlm, texts)).loss_sum.backward()
        assert calls == expected


def test_a_batch_without_supervision_has_zero_gradients(vlm: VLM) -> None:
    apply_training(vlm, Stage(steps=1, batch_size=1))
    batch = a_batch(vlm)
    output = vlm(Batch(**{**vars(batch), "labels": torch.full_like(batch.labels, -100)}))
    output.loss_sum.backward()
    assert output.supervised_tokens == 0 and output.loss_sum == 0
    trained = [p for p in vlm.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and not p.grad.any() for p in trained)


def test_placeholders_must_match_the_views(vlm: VLM) -> None:
    batch = a_batch(vlm)
    with pytest.raises(ModelError, match="placeholders"):
        vlm(Batch(**{**vars(batch), "pixel_values": None, "view_sample": batch.view_sample[:0]}))
    with pytest.raises(ModelError, match="placeholders"):
        vlm(Batch(**{**vars(batch), "pixel_values": batch.pixel_values[:2], "view_sample": batch.view_sample[:2]}))


def test_state_dict_of_the_language_model_keeps_its_keys(llama, siglip) -> None:
    plain = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    for architecture in (AR, CROSS):
        ours = a_vlm(siglip, llama, architecture=architecture).language.model.state_dict()
        assert {n for n in ours if "trainable_tokens" not in n} == set(plain)
        assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items())


def test_what_positions_see() -> None:
    is_image = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    segment, image = torch.ones_like(is_image, dtype=torch.long), torch.tensor([[0, 1, 1], [-1, -1, -1]])
    last = visible_views(is_image, segment, image, last_only=True)[0].int().tolist()
    assert last == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 1]]
    every = visible_views(is_image, segment, image, last_only=False)[0].int().tolist()
    assert every == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert not visible_views(is_image, segment, image, last_only=True)[1].any()


@pytest.mark.parametrize(("every", "blocks"), [(1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_there_are_as_many_blocks_as_whole_intervals(every: int, blocks: int, llama, siglip) -> None:
    vlm = open_gates(a_vlm(siglip, llama, architecture=dict(name=CROSS, every=every)))
    assert len(vlm.architecture.blocks) == blocks
    vlm(a_batch(vlm)).loss_sum.backward()
    trained = [p.grad for p in vlm.architecture.parameters()]
    assert trained and all(grad is not None and grad.any() for grad in trained), "every block is in use"


def test_views_of_one_image_are_seen_as_one_in_training(llama, siglip) -> None:
    last, every = (
        open_gates(a_vlm(siglip, llama, architecture=dict(name=CROSS, every=2, attend=attend)))
        for attend in ("last", "all")
    )
    batch = a_batch(last, [f"{IMAGE} {IMAGE} what is it ?", "the dog"])

    def loss(vlm: VLM, images: list[int] | None) -> float:
        numbers = None if images is None else torch.tensor(images)
        return float(vlm(Batch(**{**vars(batch), "view_image": numbers})).loss_sum.detach())

    assert loss(last, [0, 0]) == loss(every, None) != loss(last, [0, 1]) == loss(last, None)


@pytest.mark.parametrize("padded", [0, 2, 10])
def test_new_tokens_have_rows_of_their_own(padded: int, siglip, tmp_path) -> None:
    folder = save_lm(tmp_path, LlamaConfig(**TEXT, tie_word_embeddings=False), padded=padded)
    base = AutoModelForCausalLM.from_pretrained(folder)
    vlm = a_vlm(siglip, folder)
    words = len(vlm.tokenizer) - 3
    assert vlm.language.vocabulary == max(words + 3, words + padded)
    ids = torch.arange(len(vlm.tokenizer))
    embedded = vlm.language.model.get_input_embeddings()(ids)
    assert torch.equal(embedded[:words], base.get_input_embeddings().weight[:words])
    assert torch.equal(embedded[words:], vlm.language.model.get_input_embeddings().trainable_tokens)
    states = torch.randn(2, 32)
    head, plain = vlm.language.model.get_output_embeddings(), base.get_output_embeddings()
    assert torch.equal(head(states)[:, :words], plain(states)[:, :words])
    assert torch.equal(head(states)[:, words + 3 :], plain(states)[:, words + 3 :])


def test_extra_tokens_are_words_of_texts_and_answers(llama, siglip) -> None:
    vlm = a_vlm(siglip, llama, extra_tokens=["<loc_1>", "<loc_12>"])
    first, second = vlm.tokenizer.convert_tokens_to_ids(["<loc_1>", "<loc_12>"])
    encoder = Encoder(vlm.tokenizer, Preparation(image=ImageConfig(size=32)), vlm.placeholders)
    layout = encoder.layout(Sample("s", (Text("the cat is <loc_12> <loc_1> <image>", True),), "test"))
    ids, labels = layout.input_ids.tolist(), layout.labels.tolist()
    assert ids.index(second) + 1 == ids.index(first) and {first, second} <= set(labels)
    assert vlm.image_token_id not in ids, "a marker is none of a text's words"
    found = decode(vlm.tokenizer, [second, first, vlm.image_token_id, vlm.tokenizer.eos_token_id], [2], [])
    assert found.split() == ["<loc_12>", "<loc_1>"]
    rows = vlm.language.model.get_input_embeddings().trainable_tokens
    assert len(rows) == 5 and second == first + 1 == vlm.image_token_id + 3


def test_new_parameters_depend_on_the_seed_and_their_part_alone(llama, siglip) -> None:
    def new(noise: int, **fields) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        torch.randn(noise)
        return a_vlm(siglip, llama, **fields).state_dict()

    one, same, other_seed = new(1), new(7), new(1, seed=3)
    assert all(torch.equal(one[name], same[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other_seed[name])}
    assert any(n.startswith("connector") for n in differing) and any("trainable_tokens" in n for n in differing)
    assert not any(n.startswith("vision") for n in differing)
    last, every = (new(1, architecture=dict(name=CROSS, attend=a), connector="linear") for a in ("last", "all"))
    assert all(torch.equal(last[name], every[name]) for name in last)


@pytest.mark.parametrize("architecture", [AR, CROSS])
def test_planning_needs_no_weights(architecture: str, llama, siglip) -> None:
    real = a_vlm(siglip, llama, architecture=architecture)
    planned = build_vlm(real.config, real.views, load_weights=False)
    assert all(p.is_meta for p in planned.parameters())
    assert {n: p.shape for n, p in planned.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    report = apply_training(planned, Stage(steps=1, batch_size=1, language="dora", vision="lora"))
    assert (
        report.trainable == apply_training(real, Stage(steps=1, batch_size=1, language="dora", vision="lora")).trainable
    )


def test_neftune_noise_only_while_training(vlm: VLM) -> None:
    apply_training(vlm, Stage(steps=1, batch_size=1, neftune_alpha=5.0))
    batch = a_batch(vlm)
    assert torch.equal(logits_of(vlm, batch), logits_of(vlm, batch))
    vlm.train()
    embeds = vlm._embed_text(batch)
    vlm.eval()
    noise = (embeds - vlm._embed_text(batch)).abs()
    bound = 5.0 / (batch.attention_mask.sum(1) * 32).sqrt()
    assert (noise.amax((1, 2)) <= bound + 1e-6).all() and (noise.amax((1, 2)) > 0.8 * bound).all()
    assert not noise[~batch.attention_mask].any()
