"""Answers to prompts without images are shared exactly where they cannot differ, and are those of the model itself."""

from __future__ import annotations

import pytest
import torch

from tests.models.support import a_batch, a_vlm, open_gates
from vlm_ablate.config.stages import Stage
from vlm_ablate.evaluation.text_answers import TextAnswers
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.feature_store import store_size

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


def kept(root) -> int:
    """Batches whose answers are on disk."""
    return sum(file.stat().st_size // 44 for file in root.rglob("*.idx"))


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
    assert kept(tmp_path) == 1


def test_other_prompts_limits_and_rules_are_asked_for_themselves(siglip, llama, tmp_path):
    vlm = an_arm(siglip, llama)
    ask(vlm, tmp_path)
    bidirectional = an_arm(siglip, llama, architecture={"name": "autoregressive", "prompt": "bidirectional"})
    assert not ask(bidirectional, tmp_path)[1]
    for options in ({"texts": TEXTS[:2]}, {"max_new_tokens": 5}, {"stop": ["red"]}, {"texts": ["<image> the dog"]}):
        assert not ask(vlm, tmp_path, **options)[1]
    assert ask(vlm, tmp_path)[1]


def test_answers_of_a_checkpoint_that_ends_elsewhere_are_its_own(siglip, llama, tmp_path):
    """What ends a text stands in generation_config.json, which may be mended in place."""
    ask(an_arm(siglip, llama), tmp_path)
    vlm = an_arm(siglip, llama, seed=1)
    vlm.language.model.generation_config.eos_token_id = list(range(vlm.language.vocabulary))
    assert ask(vlm, tmp_path) == ([""] * len(TEXTS), False)
    assert ask(vlm, tmp_path) == ([""] * len(TEXTS), True)


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
    for place in (0, 10, -1):
        file = max(tmp_path.rglob("*.bin"), key=lambda f: f.stat().st_mtime_ns)
        data = bytearray(file.read_bytes())
        data[place] ^= 4
        file.write_bytes(data)
        assert ask(vlm, tmp_path) == (first, False)
        assert ask(vlm, tmp_path) == (first, True)


def test_answers_stay_below_their_limit(siglip, llama, tmp_path):
    vlm = an_arm(siglip, llama)
    limit = 12_000
    for number in range(1, 12):
        shared = TextAnswers(vlm, tmp_path, limit=limit)  # a process of its own each, as it were
        shared.generate(a_batch(vlm, TEXTS, left=True), max_new_tokens=number, stop=[])
    assert 0 < store_size(tmp_path).bytes <= limit + limit // 4
    last = TextAnswers(vlm, tmp_path, limit=limit)
    last.generate(a_batch(vlm, TEXTS, left=True), max_new_tokens=11, stop=[])
    assert last.shared == 1
