"""What a letter is called, and where a text stands, moves no answer to another choice: laws of the choice parser over
random questions and answers."""

from __future__ import annotations

import random
from collections.abc import Mapping

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm_ablate.evaluation.benchmarks.tabular import choice_item
from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.evaluation.metrics.choice_parser import parse_choice

LETTERS = "BCDEFGH"
"""Those that are no words of English by themselves."""
TEXTS = ["dog", "two birds", "red car", "12", "3.5 kg", "none of these", "x + y", "north-east", "Paris", "$x^2$"]
ONE = ["{X}", "({X})", "{X}.", "{X}. {x}", "{X}) {x}", "Answer: {X}", "the answer is {X}.", "**{X}**", "option {X}",
       "\\boxed{{{X}}}", "<answer>{X}</answer>", "{X} because it is so", "I choose {X}", "{X}\n\nIt is seen.",
       "so it must be\n{X}", "Answer: {x}", "{x}", "{X} is correct", "the correct option is {X}",
       "it's {X}.", "I think this is {X}", "a picture, so {X}.", "It must be ({X}).", "Ans. {X}", "{X}。"]  # fmt: skip
"""Forms of the table in `choice_parser`: X the letter, x the choice's text."""
TWO = ["{X}, {Y}", "{X} and {Y}", "({X}) or ({Y})", "{X}/{Y}", "{X}. {x}\n{Y}. {y}", "Answer: {X}\nAnswer: {Y}",
       "{X}. {y}", "{X}\n{Y}", "{X}. Or is it ({Y})?", "{X} is correct and {Y} is correct"]  # fmt: skip
LAW = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def question(draw: st.DrawFn) -> dict[str, str]:
    """Letters, two at least, with different texts."""
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=2, max_size=len(LETTERS), unique=True))
    return dict(zip(LETTERS, texts, strict=False))


def filled(form: str, choices: Mapping[str, str], one: str, other: str = "") -> str:
    return form.format(X=one, x=choices[one], Y=other, y=choices.get(other, ""))


@given(choices=question(), form=st.sampled_from(ONE), at=st.integers(0, 6))
@LAW
def test_every_form_names_its_letter_under_any_question(choices: dict[str, str], form: str, at: int) -> None:
    letter = sorted(choices)[at % len(choices)]
    assert parse_choice(filled(form, choices, letter), choices) == letter


@given(choices=question(), form=st.sampled_from(TWO), at=st.integers(0, 6))
@LAW
def test_two_letters_are_never_read_as_one(choices: dict[str, str], form: str, at: int) -> None:
    ordered = sorted(choices)
    one, other = ordered[at % len(ordered)], ordered[(at + 1) % len(ordered)]
    assert parse_choice(filled(form, choices, one, other), choices) is None


WORDS = st.sampled_from(["it", "is", "not", "or", "answer", "Answer:", "because", "the picture", "maybe", "wrong",
                         "correct", "\n", "(", ")", ".", ",", "**", "No,", "{X}", "{Y}", "{x}", "{y}", "({X})", "{Y}.",
                         "option", "\\boxed{{{X}}}", "答案是", "</think>"])  # fmt: skip


@given(choices=question(), words=st.lists(WORDS, max_size=8), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_letters_given_otherwise_are_read_otherwise_and_nothing_else_changes(
    choices: dict[str, str], words: list[str], seed: int
) -> None:
    """The same answer to the same question whose choices bear other letters."""
    ordered = sorted(choices)
    named = random.Random(seed).sample(LETTERS, len(LETTERS))
    other_name = dict(zip(LETTERS, named, strict=True))
    renamed = {other_name[letter]: text for letter, text in choices.items()}
    form, (one, other) = " ".join(words), ordered[:2]
    found = parse_choice(filled(form, choices, one, other), choices)
    again = parse_choice(filled(form, renamed, other_name[one], other_name[other]), renamed)
    assert again == (None if found is None else other_name[found])
    assert found is None or found in choices


@given(answer=st.text(max_size=30) | st.lists(WORDS, max_size=9).map(" ".join), choices=question())
@example(answer="\u2028B\u2028", choices={"B": "dog"})
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_text_is_read_or_not_and_blanks_around_it_do_not_matter(answer: str, choices: dict[str, str]) -> None:
    found = parse_choice(answer, choices)
    assert found is None or found in choices
    assert parse_choice(f" \n{answer}\n ", choices) == found


@given(choices=question(), at=st.integers(0, 6), gaps=st.lists(st.integers(0, 6), max_size=2))
@LAW
def test_a_made_item_is_scored_by_its_right_letter_and_text_alone(
    choices: dict[str, str], at: int, gaps: list[int]
) -> None:
    texts = list(choices.values())
    right = at % len(texts)
    texts = ["" if i in gaps and i != right else text for i, text in enumerate(texts)]
    item = choice_item("q", "which?", texts, chr(65 + right))
    assert item.answer == chr(65 + right) and item.choices[right] == texts[right]
    score = metrics["multiple_choice"].score
    for number, text in enumerate(texts):
        letter = chr(65 + number)
        expected = (1.0 if number == right else 0.0) if text else None
        for answer in (f"({letter})", f"{letter}. {text}", text) if text else (f"({letter})",):
            assert score(answer, item.references).value == expected, (answer, item.references)
