"""Assembling tiny models and batches for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM
from vlm_ablate.testing import example_batch

PERCEIVER = dict(name="perceiver", latents=3, depth=1, heads=2, head_dim=8, kv_heads=1)
IMAGE = "<image>"


def a_vlm(
    vision: Path | dict,
    language: Path | dict,
    *,
    connector: dict | str = PERCEIVER,
    architecture: dict | str = "autoregressive",
    image: ImageConfig | None = None,
    seed: int = 0,
    **fields,
) -> VLM:
    """A model of these parts; a folder stands for `siglip-native` or `hf` with that id. Gates are opened a little."""
    config = ModelConfig.model_validate(
        {
            "vision": {"name": "siglip-native", "id": str(vision)} if isinstance(vision, Path) else vision,
            "language": {"name": "hf", "id": str(language)} if isinstance(language, Path) else language,
            "connector": connector,
            "architecture": architecture,
            **fields,
        }
    )
    return started_vlm(config, Views.of([image or ImageConfig(size=32)]), seed=seed).eval()


def logits_of(vlm: VLM, batch: Batch) -> Tensor:
    """Logits of every position, without a gradient."""
    with torch.no_grad():
        return vlm.logits(batch)


def open_gates(vlm: VLM, value: float = 0.7) -> VLM:
    """Let the images of a cross-attention model through."""
    for name, parameter in vlm.architecture.named_parameters():
        if "alpha" in name:
            parameter.data.fill_(value)
    return vlm


TEXTS = [f"{IMAGE} what is it ? answer yes", f"{IMAGE} a {IMAGE} the cat says one two", "the dog"]


def a_batch(vlm: VLM, texts: list[str] | None = None, *, left: bool = False, seed: int = 0) -> Batch:
    """Texts of words that the tests' tokenisers know, with views."""
    return example_batch(vlm, TEXTS if texts is None else texts, left=left, seed=seed)


def batch_of(inputs: Mapping[str, Tensor]) -> Batch:
    """What a processor of transformers made of one text with one image of one view."""
    ids = inputs["input_ids"]
    labels, rows = torch.full_like(ids, IGNORE), torch.zeros(1, dtype=torch.long)
    return Batch(ids, inputs["attention_mask"], labels, inputs["pixel_values"][0], None, rows, ["one"], 1)


LIMIT = {torch.float32: 2**8 * torch.finfo(torch.float32).eps, torch.float64: 1e-10}
"""Largest difference over the largest element that counts as equal.

Sums of 2**8 products in a row (layers times widths of these models) may round so far apart in float32 when they are
added in another order, as kinds of CPU do; what is equal in exact arithmetic shows in float64."""


def assert_equal(found: Tensor, expected: Tensor, *, at_least: float = 0.0, limit: float = 1.0, name: str = "") -> None:
    """The largest difference is within `limit` times LIMIT of the largest expected element, or of `at_least`."""
    scale = max(expected.abs().max().item(), at_least)
    error = (found - expected).abs().max().item() / scale if scale else float(found.any())
    assert error <= limit * LIMIT[expected.dtype], f"{name}: {error:.1e} of {scale:.1e}"


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Every gradient, relative to its largest element or to a tenth of the largest of all.

    (Biases of keys have none but rounding errors.) A single number in float32 is given ten times as much: it is a sum
    over all positions whose terms cancel.
    """
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        limit = 10 if gradient.numel() == 1 and gradient.dtype == torch.float32 else 1
        assert found[name].shape == gradient.shape, name
        assert_equal(found[name], gradient, at_least=largest / 10, limit=limit, name=name)


APART = 1e-3
"""Rounding moves logits of these models by less: what leads by more is the likeliest on any machine."""


def margins(logits: Tensor) -> Tensor:
    """(..., vocabulary) -> (...): by how much the likeliest token leads, over the largest logit."""
    best = logits.double().topk(2).values
    return (best[..., 0] - best[..., 1]) / logits.double().abs().amax(-1)


def assert_same_texts(
    texts: Sequence[str], reference: PreTrainedModel, inputs: Mapping[str, Tensor], ends: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> None:  # fmt: skip
    """Greedy texts of at most 12 tokens are those of a model of transformers, row by row, see `assert_same_greedy`.

    Args:
        inputs: of the reference, padded on the left.
        ends: ids that end a text.
    """
    made = reference.generate(
        **inputs, max_new_tokens=12, do_sample=False, eos_token_id=list(ends), pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    apart = margins(torch.stack(made.logits, 1))
    rows = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    for text, ids, sure in zip(texts, rows, apart, strict=True):
        cut = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        assert_same_greedy(text, ids[:cut], sure, tokenizer)


def assert_same_greedy(found: str, ids: list[int], apart: Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """A greedy text is that of these ids, up to the first of them that did not lead clearly.

    Args:
        found: the text.
        ids: the likeliest tokens up to the end of the text, step by step.
        apart: (at least as many,) their leads, from `margins`.
        tokenizer: of both.
    """
    sure = int((apart[: len(ids)] > APART).long().cumprod(0).sum())
    text = tokenizer.decode(ids[:sure], skip_special_tokens=True)
    assert found == text if sure == len(ids) else found.startswith(text)
