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


CHINESE = "中国的首都北京有2189万人口。船只须向引航站报告，费用在海关大\n楼一楼支付。"
JAPANESE = "港湾委員会が岸壁を管理します。カフェは駅前にあります。"
THAI = "ท่าเรือเปิดทุกวันเวลาแปดโมง"
KOREAN = "항만위원회가 부두를 관리한다. 요금은 세관에서 낸다."


@pytest.mark.parametrize(
    ("text", "answer", "stands"),
    [
        (CHINESE, "北京", True),
        (CHINESE, "海关大楼一楼", True),
        (CHINESE, "2189万", True),
        (CHINESE, "引航站。", True),
        (CHINESE, "上海", False),
        (CHINESE, "189万", False),
        (CHINESE, "船只应向引航站报告", True),
        (CHINESE, "飞机在机场跑道上降落", False),
        (JAPANESE, "港湾委員会", True),
        (JAPANESE, "空港", False),
        (THAI, "แปดโมง", True),
        (KOREAN, "항만위원회", True),
        (KOREAN, "위원회", False),
        (KOREAN, "세관", True),
    ],
)
def test_an_answer_stands_on_its_page_whether_or_not_its_script_sets_blanks(
    text: str, answer: str, stands: bool
) -> None:
    assert Sieve().stands_on(row(text), answer) is stands


def test_a_short_question_in_characters_is_a_whole_one() -> None:
    assert Sieve().reason(row(CHINESE), Pair("首都是哪？", "北京", "x")) is None
    assert Sieve().reason(row(CHINESE), Pair("啊？", "北京", "x")) == filters.EMPTY


PROSE = ["$ 1,250.00", "$500/hour", "$300", "US$ 5;", "# 42", "> 5 %", "% of all", "import duties", "from abroad",
         "the quay; the cranes;", "class A: the best", "# a heading", "return the form;"]  # fmt: skip
PROGRAMS = ["$ ls -l", "# apt install x", "${HOME}/bin", "$x = 3", "import os.path", "import numpy as np",
            "from a import b", "def f(x):", "class A(B):", "return x;", "x = f(3);", ">>> x", "for (;;) {"]  # fmt: skip


@pytest.mark.parametrize("answer", PROSE)
def test_money_and_lists_are_no_code(answer: str) -> None:
    assert Sieve().reason(row(answer), Pair("What does the page say?", answer, "x")) != filters.CODE


@pytest.mark.parametrize("answer", PROGRAMS)
def test_programs_are_code(answer: str) -> None:
    assert Sieve().reason(row(answer), Pair("What does the page say?", answer, "x")) == filters.CODE


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
        ("1. Question: What is x?\n   Answer: y\n\n2. Question: Who?\n   Answer: me",
         [("What is x?", "y"), ("Who?", "me")]),
        ("Q1：What is x?\nA1：y", [("What is x?", "y")]),
        ("Q１：是什么？\nA１：这个", [("是什么？", "这个")]),
        ("问题1：是什么？\n答案1：这个", [("是什么？", "这个")]),
        ("**1. Question:** What?\n**Answer:** This", [("What?", "This")]),
        ("Q: What? A: This.\nQ: Why? A: Because.", [("What?", "This."), ("Why?", "Because.")]),
        ("Q1: Which?\nA1: These:\nA) the quay\nB) the cranes\nQ2: Where?\nA2: there",
         [("Which?", "These:\nA) the quay\nB) the cranes"), ("Where?", "there")]),
        ("Q1: Which?\nA1: the first\nA1: the second", [("Which?", "the first\nA1: the second")]),
        ("Q1: a?\nA1: b\nA2: without a question", [("a?", "b")]),
        ("Q. What?\nA. This\nQ. Why?\nA. So", [("What?", "This"), ("Why?", "So")]),
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
