"""What is read of a page is what its picture shows, where it shows it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PilImage

from tests.docmatix.pdfs import HEIGHT, WIDTH, Drawn, Put, page, pdf_bytes
from vlm_ablate.pdf.document import PageText, draw_page, opened, read_page
from vlm_ablate.pdf.words import read_words

SHOWN = Put("Owner: The Harbour Team", 200, 12)
SECRET = "BT {how} /F1 12 Tf 30 100 Td (Editor: Alice Person) Tj ET"
INVISIBLE = {
    "white on white": [Drawn(SECRET.format(how="1 g"))],
    "nearly white": [Drawn(SECRET.format(how="0.97 g"))],
    "the invisible mode": [Drawn(SECRET.format(how="3 Tr"))],
    "under a bar": [Drawn(SECRET.format(how="0 g")), Drawn("0 g 20 95 200 20 re f")],
    "under a bar that leaves the tips of letters": [Drawn(SECRET.format(how="0 g")), Drawn("0 g 20 99 200 8 re f")],
    "black on a black bar": [Drawn("0 g 20 95 200 20 re f"), Drawn(SECRET.format(how="0 g"))],
    "off the page": [Drawn(SECRET.format(how="0 g").replace("30 100", "30 -40"))],
    "clipped away": [Drawn("q 0 0 10 10 re W n"), Drawn(SECRET.format(how="0 g")), Drawn("Q")],
}


def read(*puts: Put | Drawn, entries: str = "", box: str = f"0 0 {WIDTH} {HEIGHT}", words: bool = False) -> PageText:
    with opened(pdf_bytes([puts], entries=entries, box=box)) as document:
        return (read_words if words else read_page)(document[0], 1)


def picture(data: bytes, dpi: int = 144) -> np.ndarray:
    with opened(data) as document:
        return np.asarray(PilImage.open(io.BytesIO(draw_page(document[0], dpi))).convert("L"))


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("drawn", INVISIBLE.values(), ids=INVISIBLE)
def test_text_that_the_picture_does_not_show_is_not_read(drawn: list[Drawn], words: bool) -> None:
    found = read(SHOWN, *drawn, words=words)
    assert found.text == SHOWN.text and found.hidden == len("Editor:AlicePerson")


def test_text_outside_the_crop_box_is_not_read() -> None:
    found = read(SHOWN, Put("Editor: Alice Person", 380, 12), entries="/CropBox [0 0 300 350]")
    assert found.text == SHOWN.text and (found.width, found.height) == (300, 350)


@pytest.mark.parametrize("how", ["0 g", "0.75 g", "1 0 0 rg", "1 1 0 rg", "1 Tr 0.2 w"])
def test_text_in_any_colour_that_can_be_told_from_the_ground_is_read(how: str) -> None:
    assert read(Drawn(SECRET.format(how=how))).text == "Editor: Alice Person"


def test_white_text_on_a_bar_and_text_that_is_struck_through_are_read() -> None:
    assert read(Drawn("0 g 20 95 200 20 re f"), Drawn(SECRET.format(how="1 g"))).text == "Editor: Alice Person"
    assert read(Drawn(SECRET.format(how="0 g")), Drawn("0 g 20 103 200 0.7 re f")).text == "Editor: Alice Person"


def test_a_word_of_which_a_part_is_covered_is_left_out_whole() -> None:
    found = read(Drawn(SECRET.format(how="0 g")), Drawn("0 g 95 95 20 20 re f"))
    assert found.text == "Editor: Alice"


def test_every_mark_of_a_visible_line_is_kept() -> None:
    text = "a: b; c = d. e, (f) - g! h? 'i' \"j\" k_l 50% #1 x*y ~ ^ | + < >"
    for size in (6, 10, 24):
        assert read(Put(text, 200, size, x=2)).text.startswith("a: b; c = d.")
    assert read(Put(text, 200, 7, x=2)).text == text


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("box", [f"0 0 {WIDTH} {HEIGHT}", "50 -20 350 380"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_line_stands_where_the_picture_shows_it(turn: int, box: str, words: bool) -> None:
    put, entries = Put("HARBOUR", 250, 14, x=90), f"/Rotate {turn}"
    (line,) = read(put, entries=entries, box=box, words=words).lines
    ink = picture(pdf_bytes([[put]], entries=entries, box=box)) < 128
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    seen = (columns[0], len(ink) - 1 - rows[-1], columns[-1] + 1, len(ink) - rows[0])
    assert (line.left, line.bottom, line.right, line.top) == pytest.approx([side / 2 for side in seen], abs=1.5)


def test_what_is_filled_into_a_form_is_drawn() -> None:
    empty, filled = (picture(pdf_bytes([page("text")], field=field)) for field in ("", "Alice"))
    assert (filled != empty).sum() > 100
