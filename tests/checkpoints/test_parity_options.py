"""Idefics2, Idefics3 and SmolVLM of any shape, fed by our data room: pictures of any size, split or whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, PreTrainedModel

from tests.checkpoints.test_parity import TOKENS, Case, save_reference
from tests.models.support import assert_equal, assert_equal_gradients
from vlm_ablate.checkpoints.families.known import family_of, inputs_for, parts_of
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.checkpoints.to_transformers import our_names
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.tokens import position_tokens
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM

WORDS = "the cat dog says one two red blue flag what is it"


@dataclass(frozen=True)
class Example:
    """A model, a way of preparing images, and a batch."""

    case: Case
    image: ImageConfig
    pictures: list[list[tuple[int, int]]]
    """(width, height) of each sample's pictures."""
    left: bool
    dtype: torch.dtype


@st.composite
def examples(draw: st.DrawFn, family: str, split: str) -> Example:
    def one_of(*values):
        return draw(st.sampled_from(values))

    patch = one_of(4, 8)
    heads, kv_heads = one_of((2, 1), (2, 2), (4, 1), (4, 2), (4, 4))
    if family == "idefics2":
        queries, kv = one_of((1, 1), (2, 1), (4, 2), (3, 3))
        connector = dict(latents=draw(st.integers(1, 7)), depth=draw(st.integers(1, 3)), heads=queries)
        connector |= dict(head_dim=one_of(4, 8), kv_heads=kv)
        size = patch * draw(st.integers(4, 7))
        image = ImageConfig(resize="native", size=size, shortest=size // 2, split=split)
    else:
        factor = one_of(1, 2, 3)
        connector, size = dict(factor=factor), patch * factor * draw(st.integers(1, 2))
        image = ImageConfig(size=size)
        if split == "tiles":
            image = ImageConfig(split="tiles", tile=size, size=size * draw(st.integers(2, 3)))
    towers = draw(st.integers(1, 3))
    case = Case(
        family,
        connector,
        kv_heads=kv_heads,
        tied=draw(st.booleans()),
        patch=patch,
        vision=dict(
            hidden_size=8 * towers, num_attention_heads=towers, num_hidden_layers=one_of(1, 2), image_size=size
        ),
        text=dict(hidden_size=8 * heads, num_attention_heads=heads, num_hidden_layers=one_of(1, 3)),
        tokens=(*TOKENS, *(position_tokens() if image.split == "tiles" else ())),
    )
    side = st.integers(3, 90)
    pictures = draw(st.lists(st.lists(st.tuples(side, side), max_size=3), min_size=1, max_size=3).filter(any))
    return Example(case, image, pictures, draw(st.booleans()), one_of(torch.float32, torch.float64))


def both(example: Example, folder: Path) -> tuple[PreTrainedModel, VLM]:
    save_reference(example.case, folder)
    reference = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    vlm = started_vlm(ModelConfig.model_validate(parts_of(reference.config, str(folder))), Views.of([example.image]))
    return reference.to(example.dtype).eval(), vlm.to(example.dtype).eval()


def batch_of(example: Example, vlm: VLM) -> Batch:
    noise, words, samples = np.random.default_rng(0), WORDS.split(), []
    for row, sizes in enumerate(example.pictures):
        segments = [Text("the")]
        for width, height in sizes:
            picture = noise.integers(0, 256, (height, width, 3), np.uint8)
            segments += [Image(ImageRef(picture)), Text(" ".join(words[: 1 + row]))]
        samples.append(Sample(str(row), (*segments, Text(" ".join(words[row:]), supervised=True)), "noise"))
    data = DataConfig.model_construct(image=example.image, prompt="plain", sequence_length=2**20)
    encoder = Encoder(vlm.tokenizer, data, vlm.placeholders)
    collate = Collator(encoder.pad, vlm.vision.mean, vlm.vision.std, side="left" if example.left else "right")
    return collate([encoder(sample) for sample in samples])


@pytest.mark.parametrize(
    ("family", "split"),
    [("idefics2", "none"), ("idefics2", "crops"), ("idefics3", "none"), ("idefics3", "tiles"), ("smolvlm", "tiles")],
)
@given(data=st.data())
@settings(max_examples=6, deadline=None, derandomize=True)
def test_any_shape_any_pictures(family: str, split: str, data: st.DataObject) -> None:
    example = data.draw(examples(family, split))
    with TemporaryDirectory() as folder:
        reference, vlm = both(example, Path(folder))
    batch = batch_of(example, vlm)
    event(f"pictures {[len(row) for row in example.pictures]}, more views: {len(batch.view_sample) > batch.images}")
    expected = reference(**inputs_for(reference, vlm, batch)).logits
    output = vlm(batch)
    labels = batch.labels[:, 1:].masked_fill(~batch.attention_mask[:, :-1].bool(), -100)  # padding predicts nothing
    scored = labels != -100
    assert_equal(output.logits[0] if output.logits.dim() == 3 else output.logits, expected[:, :-1][scored])

    loss = cross_entropy(expected[:, :-1].flatten(0, 1), labels.flatten())
    assert_equal(output.loss_sum / output.supervised_tokens, loss)
    (output.loss_sum / output.supervised_tokens).backward()
    loss.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    names = our_names(family_of(reference.config, ""), reference.config, reference.state_dict())
    assert_equal_gradients({names[name]: p.grad for name, p in vlm.named_parameters()}, theirs)
    logits = vlm.logits(batch)
    assert_equal(logits[batch.attention_mask], expected[batch.attention_mask])
