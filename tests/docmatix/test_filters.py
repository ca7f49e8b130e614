"""Which pairs are dropped, and why; and reading a model's pairs."""

from __future__ import annotations

import pytest

from vlm_ablate.docmatix import filters
from vlm_ablate.docmatix.filters import Sieve
from vlm_ablate.docmatix.pair import PageRow, Pair
from vlm_ablate.docmatix.prompts import STYLES, messages, parse_pairs
from vlm_ablate.pdf.document import Line, PageText

TEXT = (
    "The Debian archive holds 59,000 packages.\nEvery package must have a maintainer’s address.\n"
    "Uploads are signed on 4 May 2020 and checked by the archive software before they are installed."
)


def row(*pages: str) -> PageRow:
    made = [
        PageText(n, 100, 100, tuple(Line(t, 0, 0, 0, 0, 8, False, False) for t in p.splitlines()))
        for n, p in enumerate(pages, 1)
    ]
    return PageRow("a.pdf", "key", tuple(made))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("59,000", None),
        ("59,000 packages", None),
        ("59,001 packages", filters.NOT_FOUND),
        ("9,000", filters.NOT_FOUND),
        ("the debian  ARCHIVE.", None),
        ("a maintainer's address", None),
        ("The archive holds 59,000 packages and checks signed uploads before installing them.", None),
        ("The archive holds 60,000 packages and checks signed uploads before installing them.", filters.NOT_FOUND),
        ("Purple elephants eat marmalade sandwiches for breakfast.", filters.NOT_FOUND),
        ("Yes", filters.NOT_FOUND),
        ("", filters.EMPTY),
        ("...", filters.EMPTY),
        ("Unanswerable", filters.UNANSWERABLE),
        ("The number of packages is not mentioned in the text.", filters.UNANSWERABLE),
        ("The document does not specify this.", filters.UNANSWERABLE),
        ("There is not enough information to answer.", filters.UNANSWERABLE),
        ("```python\nprint(1)\n```", filters.CODE),
        ("for (int i = 0; i < 3; i++) { run(i); }", filters.CODE),
        ("<b>bold</b>", filters.CODE),
        ("sudo dpkg -i package", filters.CODE),
        ("The B¨ohm archive", filters.BROKEN),
        ("archive " * 300, filters.LONG),
    ],
)
def test_reasons(answer: str, reason: str | None) -> None:
    assert Sieve().reason(row(TEXT), Pair("What does the page say?", answer, "x")) == reason


def test_an_answer_that_the_question_gives_away() -> None:
    pair = Pair("Is it true that the Debian archive holds 59,000 packages?", "the Debian archive holds 59,000", "x")
    assert Sieve().reason(row(TEXT), pair) == filters.GIVEN_AWAY
    assert Sieve().reason(row(TEXT), Pair("Which package count, of 59,000 or so?", "59,000", "x")) is None


def test_evidence_stands_in_for_a_count() -> None:
    count = Pair("How many sentences begin with E?", "1", "count", ("Every package must have",))
    assert Sieve().reason(row(TEXT), count) is None
    missing = Pair("How many sentences begin with E?", "1", "count", ("Eggs are",))
    assert Sieve().reason(row(TEXT), missing) == filters.NOT_FOUND


def test_support_is_a_threshold() -> None:
    # "get" and "weighed" are not there.
    pair = Pair("What happens?", "Uploads get signed, checked, weighed and installed.", "x")
    assert Sieve(0.6).reason(row(TEXT), pair) is None
    assert Sieve(0.9).reason(row(TEXT), pair) == filters.NOT_FOUND


def test_duplicates_of_a_row_and_of_the_pdf() -> None:
    sieve, one, two = Sieve(), row(TEXT), row(TEXT, "Another page says 12 things.")
    ask = Pair("How many packages are there?", "59,000", "x")
    assert sieve.keep(one, [ask, Pair("how many packages are there", "59,000 packages", "x")]) == [ask]
    assert sieve.keep(two, [ask, Pair("How many things?", "12", "x")]) == [Pair("How many things?", "12", "x")]
    assert sieve.dropped == {filters.DUPLICATE: 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q1: What?\nA1: This.\n\nQ2: Why?\nA2: Because\nof it.\n\nI hope this helps!",
         [("What?", "This."), ("Why?", "Because\nof it.")]),
        ("Sure!\n**Q1:** What is x?\n**A1:** It is 3.\nQ2: no answer\nQ3: b?\nA3: c",
         [("What is x?", "It is 3."), ("b?", "c")]),
        ("Question 1: a or b?\nAnswer 1: b", [("a or b?", "b")]),
        ("### Q1. What is x?\nA1. y", [("What is x?", "y")]),
        ("A1: an answer alone\nQ1: cut off", []),
        ("", []),
    ],
)
def test_pairs_of_a_model(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(p.question, p.answer) for p in parse_pairs(text, "varied")] == expected


def test_five_styles_give_five_prompts_with_the_pages_in_order() -> None:
    pages = row("page one", "page two")
    prompts = [messages(pages, style, 1000) for style in STYLES]
    assert len({p[0]["content"] for p in prompts}) == len(STYLES) == 5
    assert all("page one\nNEW PAGE\npage two" in p[1]["content"] for p in prompts)
    assert "page two" not in messages(pages, STYLES[0], 8)[1]["content"]
