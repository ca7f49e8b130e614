"""Answers: cut where they end and at the first stop string, the same in any company, batch after batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.models.conftest import WORDS
from tests.models.support import a_vlm, open_gates
from tests.models.test_beginnings import a_prompt_batch, some_shots
from vlm_ablate.errors import ModelError
from vlm_ablate.models.beginnings import Beginnings, _alike
from vlm_ablate.models.generation import decode, end_ids
from vlm_ablate.models.vlm import VLM

STOPS = [[], ["dog"], ["dog", "says one"], ["o"], ["cat", "cat dog"], ["never said"], [" "], ["flag", "blue", "the"]]


@pytest.fixture(scope="module", params=["autoregressive", "cross_attention"])
def vlm(request, llama, siglip) -> VLM:
    return open_gates(a_vlm(siglip, llama, architecture=request.param, seed=3)).double()


def prompts(seed: int, count: int = 5) -> list[list[tuple[list[str], list[int]]]]:
    generator = np.random.default_rng(seed)
    return [some_shots(generator, int(generator.integers(1, 4)), f"p{number}") for number in range(count)]


def test_a_row_is_cut_at_its_end_and_before_the_first_stop_string(vlm: VLM) -> None:
    rng, ends = np.random.default_rng(0), end_ids(vlm.language)
    words = [vlm.tokenizer.convert_tokens_to_ids(word) for word in WORDS]
    special = [vlm.tokenizer.pad_token_id, vlm.image_token_id, *ends]
    for stop in STOPS:
        for _ in range(40):
            ids = [int(rng.choice(words if rng.random() < 0.85 else special)) for _ in range(rng.integers(0, 9))]
            length = next((at for at, token in enumerate(ids) if token in ends), len(ids))
            whole = " ".join(vlm.tokenizer.convert_ids_to_tokens([t for t in ids[:length] if t in words]))
            places = (at for at in range(len(whole)) if any(whole.startswith(s, at) for s in stop))
            assert decode(vlm.tokenizer, ids, ends, stop) == whole[: next(places, len(whole))]


@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_stop_strings_cut_what_would_have_been_said(stop: list[str], vlm: VLM) -> None:
    """In a batch whose rows end at different steps."""
    batch = a_prompt_batch(vlm, prompts(1))
    free = vlm.generate(batch, max_new_tokens=8)
    expected = [text[: min([place for s in stop if (place := text.find(s)) >= 0], default=len(text))] for text in free]
    assert vlm.generate(batch, max_new_tokens=8, stop=stop) == expected
    assert len(set(free)) > 2, "a model that always says the same proves nothing"


def test_fewer_tokens_are_the_first_ones(vlm: VLM) -> None:
    batch = a_prompt_batch(vlm, prompts(2))
    texts = [vlm.generate(batch, max_new_tokens=count) for count in (1, 3, 6)]
    for few, more in pairwise(texts):
        assert all(long.startswith(short) for short, long in zip(few, more, strict=True))
    assert all(len(text.split()) <= 3 for text in texts[1])


def test_company_order_and_what_was_asked_before_move_no_answer(vlm: VLM) -> None:
    """One `Beginnings` over many batches: what is kept of one is of use to the next only where that begins alike."""
    generator, beginnings = np.random.default_rng(5), Beginnings()
    common = [some_shots(generator, 3, kind) for kind in "ab"]
    asked = [[*common[number % 2], *some_shots(generator, 1, f"q{number}")] for number in range(8)]
    alone = [vlm.generate(a_prompt_batch(vlm, [prompt]), max_new_tokens=4)[0] for prompt in asked]
    positions = 0
    for _ in range(6):
        chosen = generator.permutation(8)[: generator.integers(1, 6)].tolist()
        chosen = [number for number in chosen if number % 2 == chosen[0] % 2] if generator.random() < 0.5 else chosen
        batch = a_prompt_batch(vlm, [asked[number] for number in chosen])
        found = vlm.generate(batch, max_new_tokens=4, beginnings=beginnings)
        assert found == [alone[number] for number in chosen]
        positions += batch.input_ids.numel() * (len(chosen) > 1)
        assert beginnings.positions == positions and 0 <= beginnings.computed <= positions
    assert beginnings.computed < 0.9 * beginnings.positions
    assert len(set(alone)) > 3


def test_how_much_two_prompts_begin_alike_is_counted_token_by_token() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        made = [generator.integers(-2, 2, generator.integers(1, 7)) for _ in range(generator.integers(1, 5))]
        table = _alike(made)
        for i, one in enumerate(made):
            for j, other in enumerate(made):
                size = min(len(one), len(other))
                common = next((at for at in range(size) if one[at] != other[at]), size)
                assert table[i, j] == common


def test_names_are_equal_where_tokens_and_pictures_are() -> None:
    ids = torch.tensor([[5, 9, 9, 6], [5, 9, 9, 6], [0, 5, 9, 7]])
    real, shown = ids > 0, ids == 9
    counted = Beginnings()
    first, second, third = counted.named(ids, real, shown, [(b"x", 2), (b"y", 2), (b"x", 1)])
    assert (first == second).tolist() == [True, False, False, True] and len(third) == 3
    assert third[1] == first[1] < 0 and first[0] == 5, "a picture's name is no token's"
    again, *_ = counted.named(ids, real, shown, [(b"x", 2), (b"x", 2), (b"x", 1)])
    assert np.array_equal(again, first), "names last from batch to batch"
    with pytest.raises(ValueError):
        counted.named(ids, real, shown, [(b"x", 2), (b"y", 2)])


def test_prompts_of_several_a_row_are_refused(vlm: VLM) -> None:
    batch = a_prompt_batch(vlm, prompts(3, count=2))
    with pytest.raises(ModelError, match="holds one prompt"):
        vlm.generate(replace(batch, segment=batch.segment * 2), max_new_tokens=1)
