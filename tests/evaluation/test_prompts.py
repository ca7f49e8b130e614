"""Few-shot prompts and demonstrations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.data.prompts import prompt_format
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.errors import DataError, UnknownNameError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, hash_items
from vlm_ablate.evaluation.features import rank_by_similarity
from vlm_ablate.evaluation.prompts import (
    Template,
    build_prompt,
    draw_nearest,
    draw_pool,
    draw_random,
    get_template,
    register_template,
)


def item(name: str, question: str = "What is it?", answer: str = "a cat", **changes: object) -> BenchmarkItem:
    images = (ImageRef(np.zeros((4, 4, 3), np.uint8), name),)
    fields = {"id": name, "images": images, "question": question, "references": (answer,), "answer": answer}
    return BenchmarkItem(**{**fields, **changes})


TRAIN = [item(f"t{i}", image_key=f"p{i // 2}") for i in range(40)]


def written(*args: object, form: str = "plain", **kwargs: object) -> str:
    sample = build_prompt(*args, form, **kwargs)
    return prompt_format(form, None)(sample, True).text


def test_few_shot_format() -> None:
    shots = [item("a", "Who?", "Ann"), item("b", "Where?", "Here")]
    assert written(item("q"), shots, get_template("vqa")) == (
        "<image>Question: Who? Answer: Ann\n\n<image>Question: Where? Answer: Here\n\n"
        "<image>Question: What is it? Answer:"
    )
    assert written(item("q"), shots[:1], get_template("vqa_instruction")) == (
        "Instruction: provide an answer to the question. Use the image to answer.\n"
        "Image:<image>Question: Who? Answer: Ann\nImage:<image>Question: What is it? Answer:"
    )
    assert written(item("q"), [item("a", "", "A dog runs.")], get_template("caption")) == (
        "<image>Caption: A dog runs.\n\n<image>Caption:"
    )


def test_chat_format_has_a_turn_a_shot() -> None:
    assert written(item("q"), [item("a", "Who?", "Ann")], get_template("vqa"), form="chat") == (
        "User:<image>Who?<end_of_utterance>\nAssistant: Ann<end_of_utterance>\n"
        "User:<image>What is it?<end_of_utterance>\nAssistant:"
    )


def test_lettered_choices() -> None:
    asked = item("q", choices=("cat", "dog"))
    assert written(asked, [], get_template("choices")) == "<image>Question: What is it?\nA. cat\nB. dog\nAnswer:"
    assert written(asked, [], get_template("choices"), form="chat") == (
        "User:<image>What is it?\nChoices:\nA. cat\nB. dog\nAnswer with the letter.<end_of_utterance>\nAssistant:"
    )


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_blind_has_no_image_anywhere_and_the_same_text(form: str) -> None:
    asked = item("q", "Is <image 1> red?")
    for template in ("vqa", "caption", "vqa_short"):
        blind = build_prompt(asked, TRAIN[:2], get_template(template), form, blind=True)
        assert not blind.images and "<image" not in "".join(s.text for s in blind.segments)
    seen = written(item("q"), TRAIN[:2], get_template("vqa"), form="plain")
    assert written(item("q"), TRAIN[:2], get_template("vqa"), blind=True) == seen.replace("<image>", "")


def test_a_question_cannot_smuggle_in_image_tokens() -> None:
    sample = build_prompt(item("q", "What is <image><row_1_col_1>this?"), [], get_template("vqa"), "plain")
    assert len(sample.images) == 1 and "Question: What is this?" in sample.segments[1].text


def test_image_marker_without_its_image_is_an_error() -> None:
    with pytest.raises(DataError, match="speaks of <image 3> but has 1 images"):
        build_prompt(item("q", "See <image 3>"), [], get_template("vqa"), "plain")


def test_templates_are_named_and_versioned() -> None:
    assert get_template("vqa").id == "vqa/1"
    with pytest.raises(UnknownNameError, match="did you mean 'caption'"):
        get_template("captoin")
    with pytest.raises(ValueError, match="registered twice"):
        register_template(Template("vqa", "2", "", ""))


@given(shots=st.integers(0, 8), seed=st.integers(0, 3), name=st.sampled_from(["q1", "q2", "t3"]))
@settings(max_examples=60, deadline=None)
def test_random_demonstrations(shots: int, seed: int, name: str) -> None:
    query = next((t for t in TRAIN if t.id == name), item(name))
    pool = draw_pool("b", len(TRAIN), None, seed)
    drawn = draw_random("b", query, TRAIN, pool, shots, seed)
    assert drawn == draw_random("b", query, TRAIN, pool, shots, seed), "a function of its arguments"
    assert len({d.image_key for d in drawn} - {query.image_key}) == shots, "no picture twice, none of the query's"


def test_demonstrations_differ_by_item_and_seed_and_cover_the_pool() -> None:
    pool = range(len(TRAIN))
    drawn = {(q, s): tuple(d.id for d in draw_random("b", item(q), TRAIN, pool, 4, s)) for q in "xyz" for s in (0, 1)}
    assert len(set(drawn.values())) == 6
    counts = Counter(d.id for i in range(500) for d in draw_random("b", item(f"q{i}"), TRAIN, pool, 4, 0))
    assert len(counts) == len(TRAIN) and max(counts.values()) < 2 * 2000 / len(TRAIN)


def test_pool_is_drawn_once_with_the_seed() -> None:
    assert draw_pool("b", 10, None, 0) == draw_pool("b", 10, 20, 0) == list(range(10))
    pool = draw_pool("b", 1000, 50, 0)
    assert pool == sorted(set(pool)) == draw_pool("b", 1000, 50, 0) and len(pool) == 50
    assert pool != draw_pool("b", 1000, 50, 1) and pool != draw_pool("c", 1000, 50, 0)


def test_nearest_stands_last() -> None:
    drawn = draw_nearest("b", item("q"), TRAIN, [7, 6, 20, 3], 3)
    assert [d.id for d in drawn] == ["t3", "t20", "t7"], "t6 has t7's picture"


def test_ranking_by_cosine() -> None:
    pool = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 1]]), dim=1)
    assert rank_by_similarity(torch.tensor([[0.0, 1.0]]), pool).tolist() == [[1, 2, 3, 0]]


def test_too_small_a_pool() -> None:
    with pytest.raises(DataError, match="21 demonstrations asked for, the train split gives 20"):
        draw_random("b", item("q"), TRAIN, range(len(TRAIN)), 21, 0)


def test_hash_changes_with_anything_that_is_asked_or_scored() -> None:
    base = [item("a"), item("b")]
    hashes = {
        hash_items(items)
        for items in (
            base, base[::-1], base[:1], [item("a"), item("b", "Who?")], [item("a"), item("b", answer="dog")],
            [item("a"), item("b", image_key="p")], [item("a"), item("b", choices=("x", "y"))],
        )
    }
    assert len(hashes) == 7 and all(len(h) == 16 for h in hashes)


def test_described_items_stand_in_words_where_their_images_were() -> None:
    shot, query = item("a", answer="cat", description="cat top left"), item("b", description="dog top right")
    sample = build_prompt(query, [shot], get_template("vqa"), "plain", described=True)
    assert not sample.images
    text = "".join(segment.text for segment in sample.segments)
    assert text == "cat top left\nQuestion: What is it? Answer: cat\n\ndog top right\nQuestion: What is it? Answer:"
    with pytest.raises(DataError, match="'b' has no description"):
        build_prompt(item("b"), [shot], get_template("vqa"), "plain", described=True)


def test_items_without_an_answer_are_no_demonstrations() -> None:
    silent = [replace(shot, answer=" " if i % 2 else "") if i % 4 < 2 else shot for i, shot in enumerate(TRAIN)]
    for query in map(str, range(20)):
        drawn = draw_random("b", item(query), silent, range(len(silent)), 4, 0)
        assert len(drawn) == 4 and all(shot.answer.strip() for shot in drawn)
    assert all(shot.answer.strip() for shot in draw_nearest("b", item("q"), silent, range(len(silent)), 4))
    with pytest.raises(DataError, match="the train split gives 10"):
        draw_random("b", item("q"), silent, range(len(silent)), 11, 0)


def test_the_draw_is_that_of_before_where_every_item_has_an_answer() -> None:
    drawn = draw_random("b", item("q"), TRAIN, range(len(TRAIN)), 4, 0)
    assert [shot.id for shot in drawn] == ["t39", "t22", "t5", "t18"]


def test_a_choice_that_is_absent_leaves_its_letter_out() -> None:
    asked = item("q", choices=("cat", "", "dog"))
    assert written(asked, [], get_template("choices")) == "<image>Question: What is it?\nA. cat\nC. dog\nAnswer:"
