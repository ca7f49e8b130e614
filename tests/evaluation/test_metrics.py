"""Scorers: golden edge cases, agreement with the reference implementations, properties."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.errors import DataError, UnknownNameError
from vlm_ablate.evaluation.benchmarks.docvqa import DocVqa
from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.evaluation.metrics.cider import Cider
from vlm_ablate.evaluation.metrics.ptb import tokenize

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_metrics.json").read_text(encoding="utf-8"))
CIDER = json.loads((HERE / "golden_cider.json").read_text(encoding="utf-8"))
PTB = json.loads((HERE / "golden_ptb.json").read_text(encoding="utf-8"))
SINGLE = [name for name in metrics.names() if name != "cider"]

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", " ", "a", "the cat", "5", "5%", "-3", "1,000", "0", "(B)", "B", "don't", "U.S.", "12e4", "nan", "\n"]
)


def expand(references: list[str]) -> list[str]:
    """`"yes*3"` is three times yes."""
    pairs = [r.rpartition("*") for r in references]
    return [text for head, _, tail in pairs for text in ([head] * int(tail) if head else [tail])]


@pytest.mark.parametrize(("metric", "prediction", "references", "expected", "why"), GOLDEN)
def test_edge_cases(metric: str, prediction: str, references: list[str], expected: float | None, why: str) -> None:
    value = metrics[metric].score(prediction, expand(references)).value
    assert value is None if expected is None else value == pytest.approx(expected, abs=1e-12), why


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("digits", [4_301, 20_000])
def test_a_digit_repeated_without_end_is_scored_like_any_answer(name: str, digits: int) -> None:
    metric = metrics[name]
    assert metric.score("7" * digits, ["7"]).value in (0, None)
    assert metric.score("7" * digits, ["7" * digits]).value == 1
    assert metric.score("7", ["7" * digits]).value in (0, None)


def test_cider_agrees_with_pycocoevalcap() -> None:
    items = CIDER["items"]
    result = Cider("python").corpus([i["prediction"] for i in items], [i["references"] for i in items])
    assert result.mean == pytest.approx(CIDER["mean_x100"], abs=1e-5)
    assert result.per_item == pytest.approx([i["expected"] for i in items], abs=1e-8)


@pytest.mark.parametrize(("caption", "expected"), PTB)
def test_tokens_agree_with_stanford_ptb(caption: str, expected: str) -> None:
    assert " ".join(tokenize(caption)) == expected


def test_docvqa_is_scored_as_its_published_numbers_are_and_the_record_says_so() -> None:
    assert metrics[DocVqa.metric_name].name == "anls_docvqa"
    assert metrics["anls"].version == "1", "equation 1 is what it was"


def test_cider_record_says_which_tokenizer() -> None:
    assert Cider("python").version.endswith("ptb-python")
    assert Cider("java").version.endswith("ptb-java")


def test_cider_of_one_item_is_refused_but_a_set_of_one_is_zero() -> None:
    with pytest.raises(DataError, match="single item"):
        metrics["cider"].score("a cat", ["a cat"])
    assert Cider("python").corpus(["a cat"], [["a cat"]]).mean == 0


def test_cider_of_identical_captions_is_full() -> None:
    captions = ["a cat on a red mat", "two dogs in the green park", "an old train at the station"]
    result = Cider("python").corpus(captions, [[c] for c in captions])
    assert result.per_item == pytest.approx([10.0] * 3)
    assert result.mean == pytest.approx(1000)


@pytest.mark.parametrize("name", SINGLE)
@given(prediction=texts, references=st.lists(texts, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_bounds_and_order_of_references(name: str, prediction: str, references: list[str]) -> None:
    metric = metrics[name]
    value = metric.score(prediction, references).value
    assert value is None or 0 <= value <= 1
    again = metric.score(prediction, references[::-1]).value
    assert (value is None) == (again is None)
    assert value is None or value == pytest.approx(again)


@pytest.mark.parametrize("name", [n for n in SINGLE if n != "multiple_choice"])
@given(answer=texts, others=st.lists(texts, max_size=3))
@settings(max_examples=150, deadline=None)
def test_identical_answer_scores_full(name: str, answer: str, others: list[str]) -> None:
    metric = metrics[name]
    assert metric.score(answer, [answer]).value == 1
    if name != "vqa_accuracy":
        assert metric.score(answer, [*others, answer]).value == 1


@given(letter=st.sampled_from("ABCDEFGH"))
def test_the_right_letter_scores_full(letter: str) -> None:
    assert metrics["multiple_choice"].score(letter, [letter]).value == 1


words = st.lists(st.sampled_from("a cat dog red mat on the in park two".split()), max_size=8).map(" ".join)


item_rows = st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=6)


@given(rows=item_rows, seed=st.randoms())
@settings(max_examples=60, deadline=None)
def test_mean_does_not_depend_on_the_order_of_items(rows: list[tuple[str, list[str]]], seed) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)
    for name in metrics.names():
        metric = Cider("python") if name == "cider" else metrics[name]
        one = metric.corpus([r[0] for r in rows], [r[1] for r in rows])
        two = metric.corpus([r[0] for r in shuffled], [r[1] for r in shuffled])
        assert one.mean == pytest.approx(two.mean, abs=1e-9)
        assert 0 <= one.mean <= (1000.0000001 if name == "cider" else 100)
        assert one.unparsed == two.unparsed == sum(v is None for v in one.per_item)


def test_unparsed_answers_count_as_wrong_and_are_counted() -> None:
    result = metrics["multiple_choice"].corpus(["A", "hm", "B"], [["A"], ["A"], ["A"]])
    assert (result.mean, result.unparsed, result.count) == (pytest.approx(100 / 3), 1, 3)
    assert result.per_item == (1.0, None, 0.0)


@pytest.mark.parametrize("name", metrics.names())
def test_nothing_to_score_against_is_refused(name: str) -> None:
    metric = metrics[name]
    for predictions, references in ([], []), (["a"], [[]]), (["a"], []):
        with pytest.raises(DataError):
            metric.corpus(predictions, references)
    with pytest.raises(DataError, match="not one string"):
        metric.corpus(["a"], ["a"])


def test_right_letter_must_be_a_choice() -> None:
    with pytest.raises(DataError, match="not among the choices"):
        metrics["multiple_choice"].score("A", ["D", "A. x", "B. y"])


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'anls'"):
        metrics["anl"]
