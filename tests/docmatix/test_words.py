"""Words with their boxes, as they are printed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.docmatix.pdfs import HEIGHT, Put, Rule, manual, page, pdf_bytes
from vlm_ablate.pdf.document import PageText, opened, read_page
from vlm_ablate.pdf.words import read_words


def read(puts: Sequence[Put | Rule]) -> PageText:
    with opened(pdf_bytes([puts])) as document:
        return read_words(document[0], 1)


def test_words_have_text_face_and_a_box_around_their_ink() -> None:
    puts = [*page("# 1 Big", "plain text here", "`run code()")]
    with opened(pdf_bytes([puts])) as document:
        text, ink = read_words(document[0], 1), document[0].render().to_numpy().min(-1) < 128
    assert [[w.text for w in line.words] for line in text.lines] == [["1", "Big"], ["plain", "text", "here"],
                                                                     ["run", "code()"]]
    assert [(line.words[0].bold, line.words[0].mono) for line in text.lines] == [(True, False), (False, False),
                                                                                 (False, True)]
    outside = ink.copy()
    for line in text.lines:
        for w in line.words:
            part = np.s_[int(HEIGHT - w.top) - 1 : int(HEIGHT - w.bottom) + 2, int(w.left) - 1 : int(w.right) + 2]
            assert ink[part].sum() > 4
            outside[part] = False
    assert not outside.any()


def test_lines_are_those_of_the_reader_without_words() -> None:
    with opened(pdf_bytes(manual("Alpha"))) as document:
        for index in range(len(document)):
            lines, known = read_words(document[index], 1).lines, read_page(document[index], 1).lines
            for line, same in zip(lines, known, strict=True):
                assert (line.text, line.size, line.bold, line.mono) == (same.text, same.size, same.bold, same.mono)
                assert line.left == pytest.approx(same.left, abs=1) and line.bottom <= same.bottom


def test_halves_of_a_divided_word_stay_on_their_lines_and_are_not_whole() -> None:
    lines = read([Put("this is a longer line with a divi-", 300), Put("ded word in it", 290)]).lines
    assert [line.text.replace("-", "") for line in lines] == ["this is a longer line with a divi", "ded word in it"]
    halves = [word.text.strip("-") for line in lines for word in line.words if not word.whole]
    assert halves == ["divi", "ded"]


def test_a_footnotes_mark_is_no_part_of_the_word_before_it() -> None:
    lines = read([Put("some package", 300, 8), Put("3", 303, 5, x=75), Put("another line of text", 290, 8)]).lines
    assert [(w.text, w.whole) for w in lines[0].words] == [("some", True), ("package", True), ("3", False)]


def test_an_underscore_that_is_drawn_joins_the_words() -> None:
    puts = [Put("set line", 300, 8), Put("width", 300, 8, x=60), Put("and more", 280, 8)]
    first = read(puts).lines[0]
    gap = first.words[-1].left - first.words[-2].right
    drawn = Rule(first.words[-2].right + 0.3, 299, gap - 0.6)
    assert [w.text for w in read([*puts, drawn]).lines[0].words] == ["set", "line_width"]
    assert [w.text for w in first.words] == ["set", "line", "width"]
