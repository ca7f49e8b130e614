"""Scorers against computations that share nothing with them: panels counted one by one, edit distances by their
recursion, CIDEr-D in dense vectors, numbers in exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.evaluation.metrics.anls import official_similarity, similarity
from vlm_ablate.evaluation.metrics.cider import cider_of_tokens
from vlm_ablate.evaluation.metrics.exact_match import normalise
from vlm_ablate.evaluation.metrics.numbers import last_place, parse_number
from vlm_ablate.evaluation.metrics.relaxed_accuracy import correct

ANSWERS = st.sampled_from(["cat", "dog", "two", "3", "red car"])
"""Texts that VQA's processing leaves apart, and one that it rewrites alike on both sides."""
LAW = settings(max_examples=80, deadline=None, derandomize=True)


def by_panels(answer: str, panel: Sequence[str]) -> float:
    """Mean over the annotators, each left out once: a third for every other one who agrees, one at most."""
    worth = [min(1.0, sum(a == answer for a in panel[:i] + panel[i + 1 :]) / 3) for i in range(len(panel))]
    return sum(worth) / len(worth)


@given(answer=ANSWERS, panel=st.lists(ANSWERS, min_size=10, max_size=14))
@LAW
def test_vqa_accuracy_leaves_each_annotator_out_once(answer: str, panel: list[str]) -> None:
    assert metrics["vqa_accuracy"].score(answer, panel).value == pytest.approx(by_panels(answer, panel), abs=1e-12)


@given(answer=ANSWERS, few=st.sampled_from([1, 2, 5]).flatmap(lambda n: st.lists(ANSWERS, min_size=n, max_size=n)))
@LAW
def test_fewer_annotators_count_as_ten_in_their_shares(answer: str, few: list[str]) -> None:
    ten = few * (10 // len(few))
    assert metrics["vqa_accuracy"].score(answer, few).value == pytest.approx(by_panels(answer, ten), abs=1e-12)


@given(answer=ANSWERS, panel=st.lists(ANSWERS, min_size=1, max_size=12), at=st.integers(0, 11))
@LAW
def test_one_more_annotator_who_agrees_is_never_worse(answer: str, panel: list[str], at: int) -> None:
    won = [*panel]
    won[at % len(panel)] = answer
    score = metrics["vqa_accuracy"].score
    assert score(answer, won).value >= score(answer, panel).value - 1e-12


def distance(a: str, b: str) -> int:
    """Levenshtein's, as it is defined."""

    @cache
    def between(i: int, j: int) -> int:
        if not (i and j):
            return i + j
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return between(len(a), len(b))


SHORT = st.text(alphabet="aAbÉé ß.", max_size=9)


@st.composite
def like_pair(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and the same with some of its characters changed: half of them, often."""
    text = draw(st.text(alphabet="aAé ", min_size=1, max_size=9))
    changed = draw(st.integers(0, len(text)) | st.just(len(text) // 2))
    return text, draw(st.sampled_from(["", " "])) + text[: len(text) - changed] + "x" * changed


@given(pair=st.tuples(SHORT, SHORT) | like_pair())
@LAW
def test_anls_is_one_minus_the_normalised_distance_below_its_threshold(pair: tuple[str, str]) -> None:
    a, b = pair
    for measured, one, other, longest, at_half in (
        (similarity, a.strip().lower(), b.strip().lower(), max(len(a.strip().lower()), len(b.strip().lower())), 0.0),
        (official_similarity, *(" ".join(t.lower().split()) for t in (a, b)), max(len(a.upper()), len(b.upper())), 0.5),
    ):
        share = Fraction(distance(one, other), longest) if longest else Fraction(0)
        expected = float(1 - share) if share < Fraction(1, 2) else at_half * (share == Fraction(1, 2))
        assert measured(a, b) == pytest.approx(expected, abs=1e-12)


@given(prediction=SHORT, references=st.lists(SHORT, min_size=1, max_size=4), other=SHORT)
@LAW
@pytest.mark.parametrize("name", ["anls", "anls_docvqa", "exact_match", "relaxed_accuracy"])
def test_the_best_reference_counts(name: str, prediction: str, references: list[str], other: str) -> None:
    score = metrics[name].score
    best = max(score(prediction, [reference]).value for reference in references)
    assert score(prediction, references).value == best <= score(prediction, [*references, other]).value


def dense_cider(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """CIDEr-D of each caption: a vector over all n-grams of the set for every n, in numpy."""

    def counted(tokens: list[str], known: list[tuple[str, ...]], n: int) -> np.ndarray:
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        return np.array([grams.count(gram) for gram in known], float)

    total = np.zeros(len(candidates))
    for n in (1, 2, 3, 4):
        every = [*candidates, *(r for item in references for r in item)]
        known = sorted({tuple(t[i : i + n]) for t in every for i in range(len(t) - n + 1)})
        if not known:
            continue
        items = [np.max([counted(r, known, n) for r in item], axis=0) > 0 for item in references]
        idf = np.log(len(references)) - np.log(np.maximum(1, np.sum(items, axis=0)))
        for number, (tokens, item) in enumerate(zip(candidates, references, strict=True)):
            given = counted(tokens, known, n) * idf
            for other in item:
                wanted = counted(other, known, n) * idf
                norms = np.linalg.norm(given) * np.linalg.norm(wanted)
                bigrams = max(0, len(tokens) - 1) - max(0, len(other) - 1)
                likeness = np.minimum(given, wanted) @ wanted / norms if norms else 0.0
                total[number] += 10 * likeness * np.exp(-(bigrams**2) / 72) / len(item) / 4
    return total.tolist()


CAPTION = st.lists(st.sampled_from("a cat dog sat on the mat".split()), max_size=7)


@given(rows=st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_cider_is_the_cosine_of_dense_vectors(rows: list[tuple[list[str], list[list[str]]]]) -> None:
    candidates, references = [list(row) for row in zip(*rows, strict=True)]
    assert cider_of_tokens(candidates, references) == pytest.approx(dense_cider(candidates, references), abs=1e-9)


@st.composite
def written_number(draw: st.DrawFn) -> tuple[str, Fraction, Fraction]:
    """A number as people write it, what it is, and what one in its last written place is worth."""
    whole, places = draw(st.integers(0, 10**7)), draw(st.integers(0, 4))
    part = f"{draw(st.integers(0, 10**places - 1)):0{places}}" if places else ""
    exponent, percent = draw(st.none() | st.integers(-6, 6)), draw(st.booleans())
    sign = draw(st.sampled_from(["", "-", "+", "\u2212"]))
    power = -places + (exponent or 0) - 2 * percent
    worth = Fraction(10) ** power
    value = int(f"{whole}{part}") * worth * (-1 if sign in ("-", "\u2212") else 1)
    grouped = f"{whole:,}" if draw(st.booleans()) else f"{whole}"
    text = f"{sign}{grouped}{'.' + part if part else ''}{'' if exponent is None else f'e{exponent}'}"
    text += draw(st.sampled_from(["%", " %"])) if percent else ""
    return draw(st.sampled_from(["", " "])) + text + draw(st.sampled_from(["", ".", "\n"])), value, worth


@given(number=written_number())
@LAW
def test_a_written_number_is_read_exactly(number: tuple[str, Fraction, Fraction]) -> None:
    text, value, _ = number
    assert parse_number(text) == value
    assert parse_number(f"{text} cm") is None and parse_number(f"about {text}") is None


@given(number=written_number(), share=st.integers(-9, 9))
@LAW
def test_an_open_answer_is_right_at_the_decimals_of_the_reference_and_nowhere_else(
    number: tuple[str, Fraction, Fraction], share: int
) -> None:
    """Half of what the last decimal is worth; exactly, where the reference has no decimals."""
    text, value, worth = number
    places = len(text.partition(".")[2].rstrip("%. \n").partition("e")[0])
    assume(worth <= Fraction(1, 10**places))  # a power above one loosens nothing
    score = metrics["multiple_choice"].score
    answer = value + share * worth / 10
    assert score(f"{int(answer * 10**20)}e-20", [text]).value == (abs(share) < 5 if places else share == 0)
    assert last_place(text) == (worth if places else 0)
    assert last_place(f"{text} cm") == 0


EDGE = st.sampled_from([sign * Fraction(share, 10**4) for sign in (1, -1) for share in (499, 500, 501)])


@given(gold=st.decimals(-1000, 1000, places=2), share=st.fractions(-1, 1) | EDGE, power=st.integers(0, 4))
@LAW
def test_a_number_is_right_within_five_percent_at_any_scale_and_sign(gold: object, share: Fraction, power: int) -> None:
    exact = Fraction(str(gold))
    away = Fraction(round(share * 10**4), 10**4)
    answer = exact + away * abs(exact)
    assume((answer * 10**8).denominator == 1)
    text = f"{int(answer * 10**8)}e-8"
    right = correct(text, f"{gold}")
    assert right == (abs(away) <= Fraction(1, 20) or exact == 0)
    assert correct(f"{int(answer * 10**8)}e{power - 8}", f"{gold}e{power}") == right
    assert correct(f"{-int(answer * 10**8)}e-8", f"{-gold}") == right, "of a gold value below zero as of one above"
    assert not correct("a word", f"{gold}") and not correct(text, "a word")


@given(text=st.text(alphabet="aB .\n\t", max_size=10), blanks=st.text(alphabet=" \n\t", max_size=3))
@LAW
def test_case_blanks_and_one_closing_period_are_all_that_exact_match_forgives(text: str, blanks: str) -> None:
    form = normalise(text)
    assert normalise(blanks + text.upper() + blanks) == form
    assert "  " not in form and form == form.strip().lower()
    assert len(form.replace(" ", "")) >= len("".join(text.split())) - 1
