"""Assembled with the right parts the model is LLaVA, PaliGemma, the first Idefics; Mllama where its seam is ours."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tests.checkpoints import kin
from tests.checkpoints.kin import Kin, reference_inputs
from tests.models.support import IMAGE, a_batch, assert_equal, assert_equal_gradients, assert_same_texts
from vlm_ablate.checkpoints.families.known import FAMILIES, parts_of
from vlm_ablate.checkpoints.parity import Case, load_parity
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM

CASES = {
    "llava": Kin("llava"),
    "llava-last-layer": Kin("llava", options=dict(vision_feature_layer=-1), vision=dict(patch_size=16)),
    "llava-first-layer-no-bias": Kin(
        "llava",
        side=48,
        vision=dict(hidden_size=24, num_attention_heads=3),
        text=dict(num_key_value_heads=1, hidden_size=48),
        options=dict(vision_feature_layer=-4, multimodal_projector_bias=False, projector_hidden_act="relu"),
    ),
    "llava-class-token": Kin("llava", options=dict(vision_feature_select_strategy="full"), padded=7),
    "llava-tied": Kin("llava", text=dict(tie_word_embeddings=True, num_key_value_heads=4), vision=dict(patch_size=16)),
    "paligemma": Kin("paligemma"),
    "paligemma-one-kv-head": Kin(
        "paligemma", side=24, text=dict(num_key_value_heads=1, hidden_size=48, num_hidden_layers=2), padded=5
    ),
    # A window shorter than the longest sequence, longer than any padding: rows that see nothing are NaN in Gemma 2.
    "paligemma-2": Kin("paligemma", vision=dict(patch_size=16), text=dict(sliding_window=14, query_pre_attn_scalar=8)),
    "idefics": Kin("idefics", options=dict(cross_layer_interval=2)),
    "idefics-vector-gates": Kin(
        "idefics",
        side=24,
        text=dict(hidden_size=48, num_hidden_layers=6),
        options=dict(cross_layer_interval=3, alpha_type="vector", qk_layer_norms=True, additional_vocab_size=3),
    ),
    "idefics-every-layer": Kin(
        "idefics",
        vision=dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=1),
        options=dict(
            cross_layer_interval=1,
            perceiver_config=dict(qk_layer_norms_perceiver=True, resampler_n_latents=5, resampler_depth=1),
            additional_vocab_size=2,
            tie_word_embeddings=True,
        ),
    ),
    "mllama": Kin("mllama", tokens=("<|image|>",)),
    "mllama-one-tile": Kin(
        "mllama",
        tokens=("<|image|>",),
        text=dict(num_hidden_layers=5, cross_attention_layers=[1, 2], num_key_value_heads=4),
        options=dict(supported_aspect_ratios=[[1, 1]], max_num_tiles=1),
    ),
}
TEXTS = ["the dog says no", f"{IMAGE} what is it ?", f"{IMAGE} a cat {IMAGE} the red flag answer yes no one"]
WITH_IMAGES = [f"the dog {IMAGE} what is it ? the answer", f"what {TEXTS[2]}"]
"""A row without images in a batch that has some is another thing in transformers' Mllama: see COVERAGE.md."""


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> tuple[Kin, PreTrainedModel, VLM]:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    reference = kin.save(case, folder)
    return case, reference, kin.ours(case, folder, reference)


def batch_for(case: Kin, vlm: VLM, *, left: bool, texts: list[str] | None = None) -> Batch:
    """A sample with no, one and two images; the first words of each are a prompt without loss."""
    batch = a_batch(vlm, texts or (WITH_IMAGES if case.family == "mllama" else TEXTS), left=left)
    words = (batch.labels != IGNORE).cumsum(1)
    return replace(batch, labels=batch.labels.masked_fill(words <= 2, IGNORE))


def in_precision(case: Kin, models: tuple[PreTrainedModel, VLM], dtype: torch.dtype) -> tuple[PreTrainedModel, VLM]:
    """Copies whose every step is in that precision."""
    copies = tuple(deepcopy(model).to(dtype) for model in models)
    if dtype == torch.float64:
        for model in copies:
            kin.exact_norms(model)
    return copies


def their_logits(case: Kin, reference: PreTrainedModel, batch: Batch, vlm: VLM) -> Tensor:
    """Row by row where a row computes the same only alone."""
    alone = [batch.row(n) for n in range(len(batch.input_ids))] if FAMILIES[case.family].row_by_row else [batch]
    return torch.cat([reference(**reference_inputs(reference, b, vlm)).logits for b in alone])


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def our_gradients(vlm: VLM, theirs: int | None) -> dict[str, Tensor]:
    """Gradients by name; that of our placeholder's row where the checkpoint has its own, `theirs`."""
    gradients = {n: p.grad for n, p in vlm.named_parameters() if "trainable_tokens" not in n}
    table = vlm.language.model.get_input_embeddings()
    rows = getattr(table, "trainable_tokens", None)
    if rows is not None and theirs is not None:
        gradients["language.model.model.embed_tokens.weight"][theirs] += rows.grad[vlm.image_token_id - table.start]
    return gradients


def their_gradients(case: Kin, reference: PreTrainedModel, vlm: VLM) -> dict[str, Tensor]:
    """Gradients by our names. What has no place in our assembly must have none there either."""
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    placed, homeless = FAMILIES[case.family].names(reference.config).group(gradients)
    own = dict(vlm.named_parameters())
    unread = homeless + [name for ours, theirs in placed.items() if ours not in own for name in theirs]
    assert all(gradients[name] is None for name in unread)
    return {
        ours: torch.cat([gradients[name] for name in theirs]).reshape(own[ours].shape)
        for ours, theirs in placed.items()
        if ours in own
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_logits_loss_and_gradients(pair, dtype, left) -> None:
    case, *models = pair
    reference, vlm = in_precision(case, models, dtype)
    batch = batch_for(case, vlm, left=left)
    real = batch.attention_mask
    expected = their_logits(case, reference, batch, vlm)
    found = vlm.logits(batch)
    rows = expected.shape[-1]
    assert found.shape[-1] == rows or case.family == "mllama"
    assert_equal(found[real][:, :rows], expected[real])

    losses = next_token_loss(found[..., :rows], batch.labels), next_token_loss(expected, batch.labels)
    assert_equal(*losses)
    if found.shape[-1] == rows:
        output = vlm(batch)
        assert_equal(output.loss_sum / output.supervised_tokens, losses[1])
    for model, loss in zip((vlm, reference), losses, strict=True):
        model.zero_grad()
        loss.backward()
    image = reference.config.image_token_id if case.family == "mllama" else None
    assert_equal_gradients(our_gradients(vlm, image), their_gradients(case, reference, vlm))


def test_greedy_generation(pair) -> None:
    case, *models = pair
    reference, vlm = in_precision(case, models, torch.float32)
    batch = batch_for(case, vlm, left=True)
    batch = replace(batch, labels=torch.full_like(batch.labels, IGNORE))
    head = vlm.language.model.get_output_embeddings()
    if hasattr(head, "trainable_tokens"):  # tokens that only we have: no copies of others, which would be as likely
        head.trainable_tokens.data.zero_()
    ends = end_ids(vlm.language)
    rows = [batch.row(number) for number in range(len(batch.input_ids))] if case.family == "mllama" else [batch]
    found = vlm.generate(batch, max_new_tokens=12)
    texts = iter(found)
    for part in rows:
        inputs = reference_inputs(reference, part, vlm)
        inputs.pop("position_ids")  # generate counts them itself
        told = list(islice(texts, len(part.input_ids)))
        assert_same_texts(told, reference, inputs, ends, vlm.tokenizer)
    assert len(set(found)) > 1 and any(found)


def test_text_alone(pair) -> None:
    """A batch without any image: a decoder with cross-attention leaves it out (Mllama) or runs its MLP (Idefics)."""
    case, *models = pair
    reference, vlm = in_precision(case, models, torch.float32)
    batch = batch_for(case, vlm, left=True, texts=["the dog says no", "what is it ? the cat answer"])
    with torch.no_grad():
        expected = reference(**reference_inputs(reference, batch, vlm)).logits
        found = vlm.logits(batch)[..., : expected.shape[-1]]
    assert_equal(found[batch.attention_mask], expected[batch.attention_mask])


def test_paligemma_without_its_prompt_rule_is_another_model(tmp_path) -> None:
    """The comparison sees the prompt's attention; causal, ours is what transformers computes for a suffix alone."""
    case = CASES["paligemma"]
    reference = kin.save(case, tmp_path)
    parts = parts_of(reference.config, str(tmp_path)) | dict(architecture="autoregressive")
    vlm = started_vlm(ModelConfig.model_validate(parts), Views(case.side)).eval()
    batch = batch_for(case, vlm, left=False)
    real = batch.attention_mask
    inputs = reference_inputs(reference, batch, vlm)
    with torch.no_grad():
        found = vlm.logits(batch)[real]
        assert not torch.allclose(found, reference(**inputs).logits[real], atol=1e-2)
        inputs["token_type_ids"] = torch.ones_like(batch.input_ids)
        assert_equal(found, reference(**inputs).logits[real])


def test_text_before_the_first_image_of_mllama_sees_what_transformers_lets_it_see(tmp_path) -> None:
    """There the cross-attention of a position that sees nothing goes to all images of the row and to empty tiles."""
    case = CASES["mllama"]
    reference = kin.save(case, tmp_path)
    vlm = kin.ours(case, tmp_path, reference)
    texts = [f"the dog {IMAGE} says {IMAGE} what is it ?", f"{IMAGE} the {IMAGE} cat"]
    batch = batch_for(case, vlm, left=False, texts=texts)
    other = replace(batch, pixel_values=batch.pixel_values + 1)
    real = batch.attention_mask
    with torch.no_grad():
        expected = reference(**reference_inputs(reference, batch, vlm)).logits
        found = vlm.logits(batch)[..., : expected.shape[-1]]
        changed = vlm.logits(other)[..., : expected.shape[-1]]
    assert_equal(found[real], expected[real])
    assert not torch.allclose(changed[0, :2], found[0, :2], atol=1e-2)


def test_neighbours_of_a_row_change_nothing_for_mllama(tmp_path) -> None:
    """transformers pads rows to the images of the fullest, and text before the first image sees that; not ours."""
    case = CASES["mllama"]
    reference = kin.save(case, tmp_path)
    vlm = kin.ours(case, tmp_path, reference)
    batch = batch_for(case, vlm, left=False, texts=[f"the dog {IMAGE} what", f"one {IMAGE} two {IMAGE} no", "the cat"])
    with torch.no_grad():
        together = vlm.logits(batch)
        for number in range(3):
            row = batch.row(number)
            real = row.attention_mask[0]
            expected = reference(**reference_inputs(reference, row, vlm)).logits[0][real]
            assert_equal(together[number][real][:, : expected.shape[-1]], expected)


def test_consecutive_images_of_mllama_are_seen_together(tmp_path) -> None:
    """Where views are said to be of one image, as all of a run of images are for Mllama."""
    case = CASES["mllama"]
    reference = kin.save(case, tmp_path)
    vlm = kin.ours(case, tmp_path, reference)
    batch = batch_for(case, vlm, left=False, texts=[f"{IMAGE} {IMAGE} what is it ? {IMAGE} the cat"])
    batch = replace(batch, view_image=torch.tensor([0, 0, 1]))
    with torch.no_grad():
        expected = reference(**reference_inputs(reference, batch, vlm)).logits
        found = vlm.logits(batch)[..., : expected.shape[-1]]
    assert_equal(found, expected)


def test_a_tokeniser_without_our_tokens_gets_them_beside_the_checkpoints(tmp_path) -> None:
    """A released LLaVA knows `<image>` alone; what it knows is untouched by the tokens that join."""
    case = Kin("llava", tokens=(IMAGE,), padded=1)
    reference = kin.save(case, tmp_path)
    vlm = kin.ours(case, tmp_path, reference)
    batch = batch_for(case, vlm, left=True)
    real, known = batch.attention_mask, vlm.image_token_id + 1
    with torch.no_grad():
        expected = reference(**reference_inputs(reference, batch, vlm)).logits
        found = vlm.logits(batch)
    assert found.shape[-1] == known + 2
    assert_equal(found[real][:, :known], expected[real][:, :known])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Kin("llava", options=dict(vision_feature_layer=[-2, -1])), "several layers"),
        (Kin("llava", options=dict(vision_feature_layer=1)), "from the first"),
        (Kin("mllama", tokens=("<|image|>",), text=dict(cross_attention_layers=[5])), "before decoder layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants_that_are_no_assembly_of_ours_are_refused(case, message, tmp_path) -> None:
    reference = kin.save(case, tmp_path)
    with pytest.raises(ModelError, match=message):
        kin.ours(case, tmp_path, reference)


@pytest.mark.parametrize("family", ["llava", "paligemma", "mllama"])
def test_in_bf16_angles_of_positions_are_as_exact_as_in_transformers(family: str, tmp_path) -> None:
    kin.save(Kin(family, text=dict(max_position_embeddings=4096)), tmp_path)
    models = load_parity(str(tmp_path), dtype=torch.bfloat16)
    own = models.ours.language.decoder.rotary_emb.inv_freq
    text = models.theirs.model.language_model
    assert own.dtype == torch.float32 and torch.equal(own, text.rotary_emb.inv_freq)
    assert {p.dtype for p in models.ours.parameters()} == {torch.bfloat16}
    if family == "llava":
        assert [found.difference for found in models.compare([Case("one", (1,)), Case("many", (60,))])] == [0.0, 0.0]


def test_a_table_of_positions_with_a_class_token_is_of_one_size(tmp_path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    for folder, side in ((small, 32), (large, 64)):
        folder.mkdir()
        reference = kin.save(Kin("llava", side=side), folder)
    parts = parts_of(reference.config, str(large)) | {"init_from": {"vision": str(small)}}
    with pytest.raises(ModelError, match=r"position_embedding.*\(17, .*\(65, "):
        started_vlm(ModelConfig.model_validate(parts), Views(64))
