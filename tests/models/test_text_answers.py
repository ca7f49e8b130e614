"""Answers to prompts without images are shared exactly where they cannot differ, and are those of the model itself."""

from __future__ import annotations

import pytest
import torch

from tests.models.support import a_batch, a_vlm, open_gates
from vlm_ablate.config.stages import Stage
from vlm_ablate.evaluation.text_answers import TextAnswers
from vlm_ablate.models.adapters import apply_training

TEXTS = ["the dog", "question what is it ? answer", "a cat says one"]


def an_arm(siglip, llama, seed: int = 0, stage: Stage | None = None, **parts):
    """A model after a stage that has moved everything that it trains."""
    vlm = open_gates(a_vlm({"name": "hf", "id": str(siglip)}, llama, seed=seed, **parts))
    apply_training(vlm, stage or Stage(steps=1, batch_size=1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return vlm.eval()


def ask(vlm, root, texts=TEXTS, **options):
    """(answers, whether they were there)."""
    shared, options = TextAnswers(vlm, root), {"max_new_tokens": 6, "stop": ["\n"]} | options
    batch = a_batch(vlm, texts, left=True)
    answers = shared.generate(batch, **options)
    assert answers == vlm.generate(batch, **options)
    return answers, shared.shared == 1


def test_arms_with_an_untouched_language_model_share(siglip, llama, tmp_path):
    first, there = ask(an_arm(siglip, llama), tmp_path)
    assert not there and any(first)
    assert ask(an_arm(siglip, llama, seed=1, connector="mlp"), tmp_path) == (first, True)
    skipping = {"name": "cross_attention", "unseeing": "skip"}
    assert ask(an_arm(siglip, llama, seed=2, architecture=skipping), tmp_path)[0] == first


@pytest.mark.parametrize(
    "parts",
    [
        {"architecture": "cross_attention"},
        {"stage": Stage(steps=1, batch_size=1, language="full")},
        {"stage": Stage(steps=1, batch_size=1, language="lora")},
    ],
    ids=["blocks that act without images", "a trained language model", "adapters"],
)
def test_what_may_differ_is_computed(siglip, llama, tmp_path, parts):
    ask(an_arm(siglip, llama), tmp_path)
    for _ in range(2):
        assert not ask(an_arm(siglip, llama, **parts), tmp_path)[1]
    assert len(list(tmp_path.rglob("*.answers"))) == 1


def test_other_prompts_limits_and_rules_are_asked_for_themselves(siglip, llama, tmp_path):
    vlm = an_arm(siglip, llama)
    ask(vlm, tmp_path)
    bidirectional = an_arm(siglip, llama, architecture={"name": "autoregressive", "prompt": "bidirectional"})
    assert not ask(bidirectional, tmp_path)[1]
    for options in ({"texts": TEXTS[:2]}, {"max_new_tokens": 5}, {"stop": ["red"]}, {"texts": ["<image> the dog"]}):
        assert not ask(vlm, tmp_path, **options)[1]
    assert ask(vlm, tmp_path)[1]


def test_an_arm_whose_new_tokens_would_win_computes_its_own(siglip, llama, tmp_path):
    first, _ = ask(an_arm(siglip, llama), tmp_path)
    vlm = an_arm(siglip, llama, seed=1)
    head = vlm.language.model.get_output_embeddings()
    with torch.no_grad():
        head.trainable_tokens.mul_(1000)
    for _ in range(2):
        own, there = ask(vlm, tmp_path)
        assert not there and own != first
    assert ask(an_arm(siglip, llama, seed=2), tmp_path) == (first, True)


def test_damaged_answers_are_computed_again(siglip, llama, tmp_path):
    vlm = an_arm(siglip, llama)
    first, _ = ask(vlm, tmp_path)
    (file,) = tmp_path.rglob("*.answers")
    data = bytearray(file.read_bytes())
    for place in (0, 10, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert ask(vlm, tmp_path) == (first, False)
    file.write_bytes(data[:7])
    assert ask(vlm, tmp_path) == (first, False)
    assert ask(vlm, tmp_path) == (first, True)
