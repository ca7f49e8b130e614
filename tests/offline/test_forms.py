"""Printed pages of four kinds, numbers in another script, wide pictures, and alt text."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from vlm_ablate.data.prompts import chat
from vlm_ablate.data.sample import Text
from vlm_ablate.offline import forms
from vlm_ablate.offline.alt_text import WORDLESS, alt_text
from vlm_ablate.offline.configs import OfflineSourceConfig
from vlm_ablate.offline.source import Offline
from vlm_ablate.offline.tasks import TASKS

pytestmark = pytest.mark.usefixtures("offline_material")
KINDS = ("receipts", "timetables", "cards", "lists")


def rows_of(description: str) -> list[list[str]]:
    return [line.split(" ") for line in description.removeprefix("page ").split(", ")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_stands_where_the_question_asks(kind: str) -> None:
    for index in range(80):
        item = TASKS[kind]("report", index, 64)
        rows = rows_of(item.description)
        row = rows[0 if re.search(r"first|top", item.question) else -1]
        assert len(rows) == 2 and all(row)
        column = -1 if re.search(r"price|event|right", item.question) else 0
        assert item.answer == row[column], item.question


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_page_is_the_same_page(kind: str) -> None:
    small, large = TASKS[kind]("train", 3, 64), TASKS[kind]("train", 3, 128)
    assert small.image.shape == (64, 64, 3) and large.image.shape == (128, 128, 3)
    assert (small.question, small.answer, small.description) == (large.question, large.answer, large.description)
    assert np.abs(large.image[::2, ::2].astype(float) - small.image).mean() < 25


def test_what_stands_on_a_page_is_no_wider_than_a_line() -> None:
    assert all(len(word) <= 4 for word in forms.words()) and len(forms.words()) > 50


def test_a_wide_picture_holds_the_square_one_on_its_ground() -> None:
    for index in range(5):
        square, wide = TASKS["vqa"]("tune", index, 64), TASKS["wide_vqa"]("tune", index, 64)
        assert wide.image.shape == (64, 96, 3) and wide.id == f"wide_{square.id}"
        places = [x for x in range(0, 33, 8) if np.array_equal(wide.image[:, x : x + 64], square.image)]
        assert places and (wide.question, wide.answer) == (square.question, square.answer)


def test_alt_text_is_one_of_four_kinds() -> None:
    rng = random.Random(0)
    shown = "cat top left, drum bottom right, ground red"
    said = [alt_text(shown, "a cat and a drum", "a dog", rng) for _ in range(400)]
    assert set(said) == {"cat", "a cat and a drum", "a dog", *WORDLESS}
    assert 0.15 < said.count("a cat and a drum") / 400 < 0.35


def test_alt_text_takes_the_place_of_captions_alone_and_says_the_same_again() -> None:
    def learned(captions: str) -> list[str]:
        source = Offline(OfflineSourceConfig(rows=8, tasks={"captions": 1, "vqa": 1}, captions=captions))
        return [
            f"{sample.source} {s.text}" for sample in map(source.__getitem__, range(8))
            for s in sample.segments if isinstance(s, Text) and s.supervised
        ]  # fmt: skip

    exact, web = learned("exact"), learned("alt_text")
    assert web == learned("alt_text") and exact != web
    assert [t for t in exact if "/vqa " in t] == [t for t in web if "/vqa " in t] != []


def test_dialogues_ask_what_documents_ask_and_the_prompt_format_writes_their_roles() -> None:
    options = {"rows": 6, "tasks": {"captions": 1, "vqa": 1}, "described": 0.3}
    documents, dialogues = (Offline(OfflineSourceConfig(**options, dialogue=d)) for d in (False, True))
    kinds = set()
    for document, dialogue in ((documents[i], dialogues[i]) for i in range(6)):
        kinds.add(dialogue.dialogue)
        if not dialogue.dialogue:
            assert chat(dialogue).runs == chat(document).runs, "what is only described is no conversation"
            continue
        learned = [
            [s.text.strip() for s in sample.segments if isinstance(s, Text) and s.supervised]
            for sample in (document, dialogue)
        ]
        assert learned[0] == learned[1]
        assert chat(dialogue).text.count("User:") == chat(dialogue).text.count("Assistant:") == len(learned[0])
        assert "User:" not in chat(document).text
    assert kinds == {True, False}
