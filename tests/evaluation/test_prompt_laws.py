"""Every template under every format: which pictures stand where, what is learned, what is said; and who is drawn."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.test_prompts import TRAIN, item, written
from vlm_ablate.config.data import Preparation
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.prompts import (
    _shuffled,
    build_prompt,
    draw_fixed,
    draw_nearest,
    draw_random,
    get_template,
    templates,
)

FORMATS = sorted(get_args(Preparation.model_fields["prompt"].annotation))
LAW = settings(max_examples=60, deadline=None, derandomize=True)


def a_picture(name: str) -> ImageRef:
    return ImageRef(np.zeros((4, 4, 3), np.uint8), name)


def some_items(rng: random.Random, count: int) -> list[BenchmarkItem]:
    """Items of one to three pictures, with choices or without, some of whose pictures are placed by the question."""
    made = []
    for number in range(count):
        pictures = tuple(a_picture(f"{number}.{i}") for i in range(rng.randint(1, 3)))
        places = rng.sample(range(1, len(pictures) + 1), rng.randint(0, len(pictures)))
        question = " and ".join([f"Q{number}", *(f"see <image {place}>" for place in places)])
        choices = tuple(f"choice {number}{letter}" for letter in "xyz"[: rng.choice([0, 2, 3])])
        fields = {"images": pictures, "choices": choices, "description": f"D{number}"}
        made.append(item(f"i{number}", question, f"answer {number}", **fields))
    return made


def texts(sample: Sample) -> str:
    return "".join(part.text for part in sample.segments if isinstance(part, Text))


CASE = pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name in templates for form in FORMATS], ids=lambda value: value
)


@CASE
def test_every_picture_is_shown_once_in_the_order_of_the_items(name: str, form: str) -> None:
    for seed in range(8):
        rng = random.Random(seed)
        *shots, query = some_items(rng, rng.randint(1, 4))
        shown = [part.ref.name for part in build_prompt(query, shots, get_template(name), form).segments
                 if isinstance(part, Image)]  # fmt: skip
        asked_of = "{question}" in get_template(name).query
        expected = [[ref.name for ref in one.images] for one in (*shots, query)]
        assert Counter(shown) == Counter(name for names in expected for name in names)
        assert [name.split(".")[0] for name in shown] == [name.split(".")[0] for names in expected for name in names]
        if not asked_of:
            assert shown == [name for names in expected for name in names], "no question says where they stand"


@CASE
def test_answers_of_shots_are_the_only_thing_that_is_learned_and_that_only_in_turns(name: str, form: str) -> None:
    for seed in range(5):
        *shots, query = some_items(random.Random(seed), 1 + seed)
        sample = build_prompt(query, shots, get_template(name), form)
        learned = [part.text for part in sample.segments if isinstance(part, Text) and part.supervised]
        assert learned == ([shot.answer for shot in shots] if sample.dialogue else [])
        said = texts(sample)
        assert [said.count(shot.answer) for shot in shots] == [1] * len(shots) and query.answer not in said
        places = [said.index(shot.answer) for shot in shots]
        assert places == sorted(places), "shots stand in their order"
        neighbours = zip(sample.segments, sample.segments[1:], strict=False)
        assert not any(isinstance(a, Text) and isinstance(b, Text) and a.supervised == b.supervised
                       for a, b in neighbours), "texts of one kind are one"  # fmt: skip


@CASE
def test_without_pictures_the_text_is_that_with_them(name: str, form: str) -> None:
    """Blind leaves pictures out and nothing else; the ceiling puts a description in their place, a line an item."""
    template = get_template(name)
    for seed in range(5):
        items = some_items(random.Random(seed), 3)
        plain = [replace(one, question=one.question.split(" and ")[0]) for one in items]
        *shots, query = plain
        seen, blind = (build_prompt(query, shots, template, form, blind=withheld) for withheld in (False, True))
        described = build_prompt(query, shots, template, form, described=True)
        assert seen.images and not blind.images and not described.images
        assert texts(blind) == texts(seen).replace(template.before_image, "") if template.before_image else (
            texts(blind) == texts(seen))  # fmt: skip
        told = texts(described)
        for one in plain:
            assert told.count(f"{one.description}\n") == 1
            told = told.replace(f"{one.description}\n", "")
        assert told == texts(blind)


@CASE
def test_words_of_a_question_are_said_as_they_are(name: str, form: str) -> None:
    """What a template writes in braces stands in a question or a choice as any other word."""
    template = get_template(name)
    for words in ("{question}", "what does {choices} mean", "a {choices} b {question} c", "{0} {} %s \\1"):
        query = item("q", words, choices=("first {question}", "second {choices}"))
        said = texts(build_prompt(query, [], template, form))
        other = texts(build_prompt(replace(query, question="WORDS", choices=("ONE", "TWO")), [], template, form))
        expected = other.replace("WORDS", words).replace("ONE", query.choices[0]).replace("TWO", query.choices[1])
        assert said == expected


@given(shots=st.integers(0, 12), seed=st.integers(0, 50), name=st.sampled_from(["q", "t3", "t8"]))
@LAW
def test_more_shots_are_the_same_ones_and_more(shots: int, seed: int, name: str) -> None:
    """A table over numbers of shots changes their number alone."""
    query = next((one for one in TRAIN if one.id == name), item(name))
    for draw in (draw_random, draw_fixed):
        few, many = (draw("b", query, TRAIN, range(len(TRAIN)), count, seed) for count in (shots, shots + 3))
        assert many[:shots] == few
    ranked = random.Random(seed).sample(range(len(TRAIN)), len(TRAIN))
    few, many = (draw_nearest("b", query, TRAIN, ranked, count) for count in (shots, shots + 3))
    assert many[3:] == few, "the nearest stand last"


@given(size=st.integers(0, 40), seed=st.integers(0, 50))
@LAW
def test_a_pool_is_drawn_out_of_whole_and_each_once(size: int, seed: int) -> None:
    pool = random.Random(seed).sample(range(1000), size)
    drawn = list(_shuffled(pool, random.Random(seed)))
    assert sorted(drawn) == sorted(pool)
    head = _shuffled(pool, random.Random(seed))
    assert [next(head) for _ in range(size // 2)] == drawn[: size // 2]


def test_fixed_demonstrations_differ_only_for_items_that_show_one_of_their_pictures() -> None:
    pool = range(len(TRAIN))
    common = draw_fixed("b", item("elsewhere"), TRAIN, pool, 4, 0)
    pictures = [shot.image_key for shot in common]
    replaced = 0
    for query in TRAIN:
        drawn = draw_fixed("b", query, TRAIN, pool, 4, 0)
        own = query.image_key in pictures
        kept = [shot for shot in common if shot.image_key != query.image_key]
        assert drawn[: len(kept)] == kept and (drawn != common) == own
        assert query.image_key not in {shot.image_key for shot in drawn} and len({s.image_key for s in drawn}) == 4
        replaced += own
    assert replaced == 2 * len(pictures), "two items show each picture"


@given(shots=st.integers(1, 25), seed=st.integers(0, 5))
@LAW
def test_a_pool_gives_as_many_as_it_has_pictures_and_says_so(shots: int, seed: int) -> None:
    """20 pictures, one of them the query's."""
    for draw in (draw_random, draw_fixed):
        if shots <= 19:
            assert len(draw("b", TRAIN[0], TRAIN, range(len(TRAIN)), shots, seed)) == shots
        else:
            with pytest.raises(DataError, match=f"{shots} demonstrations asked for, the train split gives 19"):
                draw("b", TRAIN[0], TRAIN, range(len(TRAIN)), shots, seed)


def test_markers_that_data_sets_keep_are_no_pictures_of_ours() -> None:
    for marker in ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_6_col_6>"):
        for form in ("plain", "chat"):
            clean, marked = (written(item("q", f"what{m} is it"), [], get_template("vqa"), form=form)
                             for m in ("", marker))  # fmt: skip
            assert marked == clean
