"""What the rules ask: the pages answer it, once and as written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.docmatix.pdfs import Put, manual, page, pdf_bytes
from vlm_ablate.docmatix.asking import dates
from vlm_ablate.docmatix.filters import Sieve, plain
from vlm_ablate.docmatix.pair import PageRow, Pair, cut_rows
from vlm_ablate.docmatix.rules import RuleQuestioner
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.pdf.document import Line, PageText, opened, read_page
from vlm_ablate.pdf.layout import Layout, face_of, split_sentences


def read(pages: list[list[Put]]) -> list[PageText]:
    with opened(pdf_bytes(pages)) as document:
        return [read_page(document[i], i + 1) for i in range(len(document))]


def asked(pages: list[list[Put]], *, per_page: int = 50, seed: int = 0, together: int = 1) -> list[Pair]:
    """Every pair that the rules can ask, over a few seeds (rare kinds are drawn)."""
    found: dict[tuple[int, str, str], Pair] = {}
    rows = cut_rows("x.pdf", "key", read(pages), together)
    for draw in range(seed, seed + 12):
        settings = BuildSettings(Path("."), Path("."), pairs_per_page=per_page, seed=draw)
        for row, pairs in RuleQuestioner(settings).ask(rows):
            found.update({(row, p.kind, p.question): p for p in pairs})
    return list(found.values())


def answers(pairs: list[Pair], kind: str) -> set[str]:
    return {p.answer for p in pairs if p.kind == kind}


def test_lines_are_read_with_size_and_face() -> None:
    text = read([page("# 1 Big", "plain text", "`code()")])[0]
    assert [(line.text, line.size, line.bold, line.mono) for line in text.lines] == [
        ("1 Big", 14, True, False), ("plain text", 8, False, False), ("code()", 8, False, True),
    ]
    assert text.lines[0].left == pytest.approx(30, abs=2) and text.lines[0].bottom > text.lines[1].bottom


def test_layout_of_a_manual() -> None:
    pages = read(manual("Alpha"))
    face = face_of(pages)
    assert face.body_size == 8 and face.offset == 0 and "Alpha Handbook" in face.running
    layout = Layout(pages[3], face)
    assert [h.text for h in layout.headings] == ["2 Part 2 of Alpha", "2.1 Care of Alpha parts"]
    assert [h.number for h in layout.headings] == ["2", "2.1"]
    assert layout.printed_number == "4" and layout.running == ["Alpha Handbook"]
    assert [(c.label, c.text) for c in layout.captions] == [("Table 4", "Widgets by weight")]
    assert "They are kept in a dry place until the spring comes back." in layout.sentences
    assert not any("main" in s for s in layout.sentences), "code is no sentence"
    contents = Layout(pages[1], face)
    assert contents.contents[0].title == "1 Part one of Alpha" and contents.contents[0].page == "3"
    assert not contents.headings and not contents.sentences


def test_every_kind_has_the_right_answer() -> None:
    pairs = asked(manual("Alpha"))
    assert answers(pairs, "title") == {"Alpha Handbook"}
    assert answers(pairs, "date") == {"March 4, 2021"}
    assert answers(pairs, "version") == {"3.2"}
    assert answers(pairs, "page header") == {"Alpha Handbook"}
    assert answers(pairs, "caption") == {"Widgets by weight"}
    assert answers(pairs, "first heading") == {f"{n} Part {n} of Alpha" for n in range(1, 5)}
    assert answers(pairs, "section number") >= {"1", "2.1", "4.1"}
    pages = {p.answer for p in pairs if p.kind == "contents page" and "“3 Part three of Alpha”" in p.question}
    assert pages == {"5"}
    assert answers(pairs, "definition") == {"A small part that turns around its own axis"}
    assert any("what is a widget of Alpha?" in p.question for p in pairs)
    blank = next(p for p in pairs if p.kind == "number in a sentence" and p.answer == "47")
    assert "Every crate of Alpha holds ____ widgets for the workshop." in blank.question
    count = next(p for p in pairs if p.kind == "count")
    assert count.answer == "2" and len(count.evidence) == 2


def test_answers_stand_on_the_page_that_the_question_names() -> None:
    rows = cut_rows("x.pdf", "key", read(manual("Alpha", 8)), 4)
    settings = BuildSettings(Path("."), Path("."), pairs_per_page=50)
    words = ("first", "second", "third", "fourth")
    named = 0
    for number, pairs in RuleQuestioner(settings).ask(rows):
        assert {p.kind for p in pairs} > {"section number", "first sentence"}
        for pair in pairs:
            place = next((i for i, w in enumerate(words) if f"on the {w} page" in pair.question.lower()), None)
            if place is not None:
                named += 1
                text = plain(rows[number].pages[place].text)
                assert all(plain(e) in text for e in pair.evidence or (pair.answer,)), pair
    assert named > 20


def test_what_occurs_twice_is_not_asked_for() -> None:
    twice = [page("## 1.1 Purpose", "One line of text here.", "And one more line.", "A third line of text.",
                  "## 1.2 Purpose", "Text that follows it.", "On May 4, 2020 and on June 5, 2021 it rained.",
                  "See http://a.example/x or http://b.example/y for more.", "", foot="1")]
    pairs = asked(twice)
    assert not answers(pairs, "section number") and not answers(pairs, "date") and not answers(pairs, "address")
    assert answers(pairs, "section title") == {"Purpose"}, "the numbers differ"


@pytest.mark.parametrize(
    "other", ["5/6/2022", "05.06.22", "2022/06/05", "on June 5", "the 5th of June", "June 5, 2022", "2022年6月5日"]
)
def test_a_date_is_asked_for_only_where_no_other_is_given_in_whatever_format(other: str) -> None:
    body = ["Made on March 4, 2021 by the team of the harbour.", "Some more text stands here for the page."]
    assert answers(asked([page(*body)]), "date") == {"March 4, 2021"}
    layout = Layout(PageText(1, 300, 400, tuple(
        Line(text, 30, 300 - 10 * i, 200, 308 - 10 * i, 8, False, False) for i, text in enumerate([*body, other])
    )), face_of([]))
    assert dates(layout, "on this page", random.Random(0)) == []


def test_a_number_within_a_text_is_no_date() -> None:
    body = ["Made on March 4, 2021 by team 3/4 with version 1.2.3 and 10-12 men.", "Some more text for the page."]
    assert answers(asked([page(*body)]), "date") == {"March 4, 2021"}


def test_pages_without_text_give_no_question() -> None:
    assert asked([[], [Put("7", 15)]]) == []


def test_the_number_of_pairs_a_page_is_kept_and_kinds_vary() -> None:
    settings = BuildSettings(Path("."), Path("."), pairs_per_page=4)
    rows = cut_rows("x.pdf", "key", read(manual("Alpha", 8)), 1)
    found = list(RuleQuestioner(settings).ask(rows))
    assert len(found) == len(rows) > 2
    for number, pairs in found:
        assert len(pairs) <= 4
        if number > 1:
            assert len(pairs) == 4 and len({p.kind for p in pairs}) >= 3


def test_same_seed_same_pairs_and_rows_do_not_depend_on_each_other() -> None:
    rows = cut_rows("x.pdf", "key", read(manual("Alpha", 6)), 2)

    def run(seed: int) -> list[list[Pair]]:
        settings = BuildSettings(Path("."), Path("."), seed=seed)
        return [pairs for _, pairs in RuleQuestioner(settings).ask(rows)]

    assert run(0) == run(0) and run(0) != run(1)


def test_sentences() -> None:
    text = "Packages (e.g. small ones) are kept by Mr. Smith. they stay. Is that so? No end"
    assert split_sentences(text) == ["Packages (e.g. small ones) are kept by Mr. Smith. they stay."]


def test_all_pairs_of_the_manual_pass_the_filter() -> None:
    rows = cut_rows("x.pdf", "key", read(manual("Alpha")), 1)
    row = PageRow("x.pdf", "key", tuple(p for r in rows for p in r.pages))
    sieve = Sieve()
    assert [(sieve.reason(row, p), p) for p in asked(manual("Alpha")) if sieve.reason(row, p)] == []
