"""Assembled with the right parts the model is transformers' Idefics2 or Idefics3, in all that it computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForImageTextToText,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.models.conftest import TEXT, VISION, write_tokenizer
from tests.models.support import IMAGE, a_vlm, assert_equal, assert_equal_gradients, assert_same_texts
from vlm_ablate.checkpoints.families.known import family_of
from vlm_ablate.checkpoints.to_transformers import our_names, to_transformers
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.vlm import VLM

TOKENS = ["<fake_token_around_image>", IMAGE, "<end_of_utterance>"]
SIDE = 32


@dataclass(frozen=True)
class Case:
    """A family and the options that break things."""

    family: str
    connector: dict
    kv_heads: int = 2
    tied: bool = False
    patch: int = 8
    vision: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    tokens: tuple[str, ...] = tuple(TOKENS)


CASES = {
    "idefics2": Case("idefics2", dict(latents=3, depth=2, heads=4, head_dim=8, kv_heads=2)),
    "idefics2-one-kv-head": Case("idefics2", dict(latents=5, depth=1, heads=2, head_dim=16, kv_heads=1), kv_heads=1),
    "idefics2-tied": Case("idefics2", dict(latents=1, depth=1, heads=2, head_dim=8, kv_heads=2), kv_heads=4, tied=True),
    "idefics3": Case("idefics3", dict(factor=2)),
    "idefics3-factor-4": Case("idefics3", dict(factor=4), kv_heads=4, tied=True),
    "smolvlm": Case("smolvlm", dict(factor=2), tied=True),
    "idefics3-factor-1": Case("idefics3", dict(factor=1), kv_heads=1, patch=16),
}


def save_reference(case: Case, folder: Path) -> None:
    """A random checkpoint made by transformers alone."""
    vocabulary = write_tokenizer(folder, list(case.tokens))
    text = TEXT | dict(vocab_size=vocabulary, num_key_value_heads=case.kv_heads, tie_word_embeddings=case.tied)
    text |= case.text
    vision = VISION | dict(patch_size=case.patch) | case.vision
    image = vocabulary - len(case.tokens) + case.tokens.index(IMAGE)
    common = dict(vision_config=vision, image_token_id=image, tie_word_embeddings=case.tied)
    torch.manual_seed(0)
    if case.family == "idefics2":
        c = case.connector
        perceiver = dict(
            hidden_size=text["hidden_size"],
            resampler_n_latents=c["latents"],
            resampler_depth=c["depth"],
            resampler_n_heads=c["heads"],
            resampler_head_dim=c["head_dim"],
            num_key_value_heads=c["kv_heads"],
        )
        text_config = MistralConfig(**text, sliding_window=None).to_dict()
        model = Idefics2ForConditionalGeneration(
            Idefics2Config(text_config=text_config, perceiver_config=perceiver, **common)
        )
    else:
        config_class, model_class = {
            "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
            "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
        }[case.family]
        config = config_class(
            text_config=LlamaConfig(**text).to_dict(), scale_factor=case.connector["factor"], **common
        )
        model = model_class(config)
    for parameter in model.parameters():  # far from the all-ones and all-zeros of a fresh model
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> tuple[PreTrainedModel, VLM]:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    save_reference(case, folder)
    reference = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    name = "perceiver" if case.family == "idefics2" else "pixel_shuffle"
    rule = "full" if case.family == "idefics2" else "any"
    ours = a_vlm(
        dict(name="siglip-native", id=str(folder), patches=rule),
        dict(name="hf", id=str(folder)),
        connector=dict(name=name, **case.connector),
        image=ImageConfig(size=SIDE),
        init_from=str(folder),
    )
    return reference, ours


def batch_for(vlm: VLM, *, left: bool, native: bool) -> Batch:
    """A sample with no, one and two images; with `native` the images have their own sizes and are padded."""
    tokenizer, n = vlm.tokenizer, vlm.placeholders(SIDE, SIDE)
    block = TOKENS[0] + IMAGE * n + TOKENS[0]
    texts = ["the dog says no", f"{block} what is it ?", f"{block} a cat {block} the red flag answer yes no one"]
    tokenizer.padding_side = "left" if left else "right"
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    first = encoded.attention_mask.cumsum(1) <= 1  # nothing predicts a document's first token
    hidden = first | (encoded.attention_mask == 0) | (encoded.input_ids == vlm.image_token_id)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=generator)
    mask = None
    if native:
        mask = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
        for view, (height, width) in enumerate([(SIDE, 17), (16, SIDE), (25, 32)]):
            mask[view, :height, :width] = True
        pixels = pixels * mask[:, None]
    rows = torch.tensor([1, 2, 2])
    return Batch(
        encoded.input_ids,
        encoded.attention_mask,
        encoded.input_ids.masked_fill(hidden, IGNORE),
        pixels,
        mask,
        rows,
        list("abc"),
        3,
    )


def reference_inputs(batch: Batch, dtype: torch.dtype) -> dict:
    """The batch as transformers' classes want it: (samples, images, ...) padded with zero images."""
    pixels = torch.zeros(3, 2, 3, SIDE, SIDE, dtype=dtype)
    mask = torch.zeros(3, 2, SIDE, SIDE, dtype=torch.bool)
    for view, slot in enumerate([(1, 0), (2, 0), (2, 1)]):
        pixels[slot] = batch.pixel_values[view].to(dtype)
        mask[slot] = True if batch.pixel_mask is None else batch.pixel_mask[view]
    return dict(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        pixel_values=pixels,
        pixel_attention_mask=mask,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("native", [False, True], ids=["square", "native"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_logits_loss_and_gradients(pair, dtype, native, left) -> None:
    reference, ours = (m.to(dtype) for m in pair)
    if native and reference.config.model_type != "idefics2":
        pytest.skip("its processor gives views of one size only")
    batch = batch_for(ours, left=left, native=native)
    # rotary angles are float32 in transformers: only equal positions can give equal float64 logits
    positions = (batch.attention_mask.long().cumsum(1) - 1).clamp(min=0)
    expected = reference(**reference_inputs(batch, dtype), labels=batch.labels, position_ids=positions)
    real = batch.attention_mask
    assert_equal(ours.logits(batch)[real], expected.logits[real])

    output = ours(batch)
    # transformers takes its loss in float32 whatever the logits are; the loss of its logits has their precision
    theirs = cross_entropy(expected.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    assert_equal(expected.loss, theirs.float())
    assert_equal(output.loss_sum / output.supervised_tokens, theirs)
    for model, loss in ((reference, theirs), (ours, output.loss_sum / output.supervised_tokens)):
        model.zero_grad()
        loss.backward()
    names = our_names(family_of(reference.config, ""), reference.config, reference.state_dict())
    gradients = {names[name]: p.grad for name, p in ours.named_parameters()}
    assert_equal_gradients(gradients, {name: p.grad for name, p in reference.named_parameters()})


def test_greedy_generation(pair) -> None:
    reference, ours = (m.float() for m in pair)
    batch = batch_for(ours, left=True, native=False)
    tokenizer = ours.tokenizer
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_utterance>")]
    found = ours.generate(batch, max_new_tokens=12)
    assert_same_texts(found, reference, reference_inputs(batch, torch.float32), ends, tokenizer)
    assert len(set(found)) > 1 and any(found)


def test_export_is_the_import_reversed(pair, tmp_path) -> None:
    reference, ours = (m.float() for m in pair)
    to_transformers(ours).save_pretrained(tmp_path)
    ours.tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = reference.state_dict()
    assert {n: t.shape for n, t in loaded.state_dict().items()} == {n: t.shape for n, t in expected.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    batch = batch_for(ours, left=False, native=False)
    inputs = reference_inputs(batch, torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, reference(**inputs).logits)


def test_export_of_new_tokens_and_adapters(llama, siglip) -> None:
    connector = dict(name="perceiver", latents=2, depth=1, heads=2, head_dim=8, kv_heads=1)
    ours = a_vlm(siglip, llama, connector=connector)
    apply_training(ours, Stage(steps=1, batch_size=1, language="dora", vision="lora"))
    for name, parameter in ours.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    batch = batch_for(ours, left=False, native=True)
    with torch.no_grad():
        expected = ours.logits(batch)
        found = to_transformers(ours)(**reference_inputs(batch, torch.float32)).logits
    torch.testing.assert_close(found[batch.attention_mask], expected[batch.attention_mask], rtol=1e-4, atol=1e-4)
    assert ours.adapters.keys() == {"vision", "language"}


def test_an_assembly_that_transformers_does_not_have(llama, siglip) -> None:
    with pytest.raises(ModelError, match="no class for this assembly"):
        to_transformers(a_vlm(siglip, llama, architecture="cross_attention"))


@pytest.mark.parametrize(
    ("connector", "message"),
    [
        (dict(name="pixel_shuffle"), "missing"),
        (dict(name="perceiver", latents=4, depth=2, heads=4, head_dim=8, kv_heads=2), "latents"),
        (dict(name="perceiver", latents=3, depth=1, heads=4, head_dim=8, kv_heads=2), "surplus"),
    ],
)
def test_checkpoints_of_another_assembly_are_refused(connector, message, tmp_path) -> None:
    save_reference(CASES["idefics2"], tmp_path)
    part = dict(id=str(tmp_path))
    with pytest.raises(ModelError, match=message):
        a_vlm(dict(name="siglip-native", **part), dict(name="hf", **part), connector=connector, init_from=str(tmp_path))
