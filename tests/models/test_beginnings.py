"""Prompts that begin alike, begun once, are answered as one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, Gemma2Config, LlamaConfig, MambaConfig, MistralConfig

from tests.models.conftest import TEXT, save_lm
from tests.models.support import a_vlm, open_gates
from vlm_ablate.events import listening
from vlm_ablate.models.batch import IGNORE, Batch, Encoded
from vlm_ablate.models.beginnings import Beginnings, Step, planned, reads_on
from vlm_ablate.models.vlm import VLM

LANGUAGE = {
    "llama": LlamaConfig(**TEXT),
    "mistral": MistralConfig(**TEXT, sliding_window=9),
    "gemma2": Gemma2Config(**TEXT, head_dim=8, sliding_window=8),
}
ARCHITECTURES = {
    "autoregressive": "autoregressive",
    "last": dict(name="cross_attention", every=2),
    "skip": dict(name="cross_attention", every=1, attend="all", unseeing="skip", qk_norm=True),
}
CASES = [("autoregressive", name) for name in LANGUAGE] + [("last", "llama"), ("skip", "llama")]


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    return {name: save_lm(tmp_path_factory.mktemp(name), config) for name, config in LANGUAGE.items()}


Shot = tuple[list[str], list[int]]
"""Names of pictures, and the tokens after them."""


def some_shots(generator: np.random.Generator, count: int, kind: str) -> list[Shot]:
    def tokens() -> list[int]:
        return generator.integers(4, 12, generator.integers(1, 9)).tolist()

    return [([f"{kind}{number}"] * int(generator.random() < 0.9), tokens()) for number in range(count)]


def a_prompt_batch(vlm: VLM, prompts: list[list[Shot]]) -> Batch:
    """Left-padded prompts; a picture has one to three views, whose tokens its name decides."""
    tokens, dtype = vlm.visual_tokens(vlm.views.side, vlm.views.side), next(vlm.language.parameters()).dtype
    width = vlm.architecture.connector_width(vlm.language, vlm.vision.width)
    placeholders, ids, rows, states, keys, images = vlm.architecture.placeholders(tokens), [], [], [], [], []
    for row, prompt in enumerate(prompts):
        ids.append([1])
        for pictures, text in prompt:
            for name in pictures:
                generator = torch.Generator().manual_seed(sum(name.encode()))
                for view in range(1 + sum(name.encode()) % 3):
                    ids[-1] += [vlm.image_token_id] * placeholders + [4] * (view > 0)
                    states.append(torch.randn(tokens, width, generator=generator).to(dtype))
                    rows.append(row)
                    keys.append(f"{name} {view}".encode())
                    images.append(len(set(images)) if not view else images[-1])
            ids[-1] += text
    shape = len(ids), max(map(len, ids))
    input_ids, segment = torch.zeros(shape).long(), torch.zeros(shape).long()
    for row, own in enumerate(ids):
        input_ids[row, shape[1] - len(own) :], segment[row, shape[1] - len(own) :] = torch.tensor(own), 1
    visual = Encoded.of(states) if states else None
    view_sample, view_image = torch.tensor(rows, dtype=torch.long), torch.tensor(images, dtype=torch.long)
    return Batch(
        input_ids, segment, torch.full(shape, IGNORE), None, None, view_sample, [str(i) for i in range(shape[0])],
        len(set(images)), view_image, visual, None, tuple(keys),
    )  # fmt: skip


def asked(vlm: VLM, prompts: list[list[Shot]]) -> tuple[list[str], Beginnings]:
    """Answers of the batch with its beginnings shared; they are those of each prompt by itself."""
    beginnings = Beginnings()
    together = vlm.generate(a_prompt_batch(vlm, prompts), max_new_tokens=5, beginnings=beginnings)
    alone = [vlm.generate(a_prompt_batch(vlm, [prompt]), max_new_tokens=5)[0] for prompt in prompts]
    assert together == alone
    return together, beginnings


@pytest.mark.parametrize(("architecture", "language"), CASES, ids=["-".join(case) for case in CASES])
def test_answers_are_those_of_each_prompt_alone(siglip, languages, architecture, language) -> None:
    parts = {"architecture": ARCHITECTURES[architecture], "seed": 3}
    vlm = open_gates(a_vlm(siglip, languages[language], **parts))
    vlm = vlm if language == "gemma2" else vlm.double()  # transformers' eager attention pads in float32 at most
    generator, told = np.random.default_rng(0), set()
    for shots in (0, 1, 4, 8):
        demonstrations, questions = some_shots(generator, shots, "d"), some_shots(generator, 6, "q")
        answers, beginnings = asked(vlm, [[*demonstrations, question] for question in questions])
        told |= set(answers)
        assert shots < 4 or beginnings.computed < 0.6 * beginnings.positions
    few = some_shots(generator, 2, "r")
    drawn = [[few[int(number)] for number in (0, *generator.integers(0, 2, 3))] for _ in questions]
    answers, beginnings = asked(vlm, [[*shown, question] for shown, question in zip(drawn, questions, strict=True)])
    assert beginnings.computed < beginnings.positions
    assert len(told | set(answers)) > 4, "a model that always says the same proves nothing"


def test_a_picture_makes_the_difference(siglip, languages) -> None:
    """The same tokens with another picture are another beginning; without names nothing is taken to be alike."""
    vlm = a_vlm(siglip, languages["llama"], seed=3).double()
    question = [5, 6, 7]
    shown = [[(["a"], [4] * 9), (["b"], question)], [(["d"], [4] * 9), (["b"], question)]] * 2
    asked(vlm, shown)
    batch = a_prompt_batch(vlm, shown)
    counted = Beginnings()
    assert vlm.generate(batch, max_new_tokens=4, beginnings=counted) == vlm.generate(batch, max_new_tokens=4)
    assert 0 < counted.computed < counted.positions
    counted = Beginnings()
    vlm.generate(replace(batch, view_keys=None), max_new_tokens=4, beginnings=counted)
    assert counted.positions == 0


@pytest.mark.parametrize(
    "architecture", [dict(name="autoregressive", prompt="bidirectional"), dict(name="cross_attention", unseeing="all")]
)
def test_what_sees_ahead_is_computed_whole(siglip, languages, architecture) -> None:
    vlm = open_gates(a_vlm(siglip, languages["llama"], architecture=architecture)).double()
    shots = [(["a"], [5, 6, 7, 8]), (["b"], [9, 10])]
    said: list[str] = []
    with listening(lambda *told: None, said.append):
        _, beginnings = asked(vlm, [[*shots, (["c"], [4 + n])] for n in range(4)])
    assert beginnings.positions == 0 and len(said) == 1 and "one by one" in said[0]


@pytest.mark.parametrize("config", [
    MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=20),
    LlamaConfig(**TEXT, vocab_size=20, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
], ids=["a state", "angles by length"])  # fmt: skip
def test_a_decoder_that_reads_otherwise_is_found_out(config) -> None:
    assert not reads_on(AutoModel.from_config(config).double().eval(), 32)


def paths(step: Step, prompts: list[np.ndarray]) -> None:
    """Every beginning is what its parent begins with, in every pass."""
    for number, (row, length) in enumerate(zip(step.rows, step.lengths, strict=True)):
        before = length - step.own
        if before <= 0:
            continue
        assert step.before is not None
        parent = step.parents[number]
        theirs = prompts[step.before.rows[parent]]
        assert before <= step.before.lengths[parent] <= len(theirs)
        assert np.array_equal(prompts[row][:before], theirs[:before])
    if step.before is not None:
        assert len(step.before.rows) <= len(step.rows)
        paths(step.before, prompts)


def test_plans_are_trees_that_save() -> None:
    generator = np.random.default_rng(1)
    saved = 0
    for _ in range(300):
        shots = [generator.integers(0, 5, generator.integers(1, 30)) for _ in range(generator.integers(1, 4))]
        prompts = [
            np.concatenate([shots[i] for i in generator.integers(0, len(shots), generator.integers(1, 5))])
            for _ in range(generator.integers(1, 12))
        ]
        step = planned(prompts)
        assert step.lengths == tuple(map(len, prompts)) and step.own >= 1
        assert step.cost <= len(prompts) * step.columns
        saved += step.before is not None
        paths(step, prompts)
    assert saved > 100
    fixed = [np.concatenate([np.arange(400), np.full(10 + i % 3, 500 + i)]) for i in range(32)]
    step = planned(fixed)
    assert step.cost <= 32 * 14 + 402, "the shots once, the questions each"
