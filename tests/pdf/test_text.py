"""Text of pages: as a person would type it, cut into lines and sentences without loss, drawn as it was before."""

from __future__ import annotations

import io
import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from pypdfium2 import PdfiumError

from tests.docmatix.pdfs import HEIGHT, WIDTH, Drawn, Put, manual, pdf_bytes
from vlm_ablate.errors import DataError
from vlm_ablate.pdf.document import (
    MAX_SIDE,
    UnreadablePdf,
    character,
    clean,
    draw_page,
    open_pdf,
    opened,
    read_page,
    runs,
)
from vlm_ablate.pdf.layout import split_sentences, unique
from vlm_ablate.pdf.scripts import unspaced
from vlm_ablate.pdf.words import read_words

ANY = st.text(st.characters(codec="utf-8") | st.sampled_from("ﬁﬄ\u00ad\u00a0\x02\ufffe \t\n\x07\x7f\x85\x9b"))


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_clean_text_has_single_blanks_and_no_control_character_and_is_clean(text: str) -> None:
    found = clean(text)
    assert clean(found) == found == " ".join(found.split(" ")).strip()
    assert "  " not in found and not {unicodedata.category(c) for c in found} & {"Cc"}
    assert not set(found) & set("ﬀﬁﬂﬃﬄ\u00a0\u00ad\ufffe\uffff")
    kept = [c for c in text if c.isalnum() and c not in "ﬀﬁﬂﬃﬄ"]
    assert [c for c in found if c in kept] == kept or any(c in text for c in "ﬀﬁﬂﬃﬄ"), "letters and digits stay"


@pytest.mark.parametrize("code", [1, 7, 9, 11, 27, 31])
def test_control_characters_part_words_as_in_the_words_of_a_page(code: int) -> None:
    assert clean(f"one{chr(code)}two") == "one two" and clean("of\x02ten e\ufb03cient") == "often efficient"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60) | st.sampled_from([10, 13]), max_size=40))
def test_runs_are_all_that_stands_between_line_ends(codes: list[int]) -> None:
    text = "".join(map(chr, codes)).replace("\r", "\n")
    found = ["".join(map(chr, codes[start:stop])) for start, stop in runs(codes)]
    assert found == [part for part in text.split("\n") if part]


@given(st.integers(-5, 0x120000))
def test_what_is_no_character_is_none(code: int) -> None:
    assert character(code) == (chr(code) if 0 < code <= 0x10FFFF else "")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "The wheel turns around. ",
                "Is that so? ",
                "no end here ",
                "Mr. Smith sat there. ",
                "It (e.g. this) is! ",
                "A b c. ",
            ]
        ),
        max_size=8,
    )
)
def test_sentences_are_whole_and_in_their_order(parts: list[str]) -> None:
    text, at = "".join(parts).strip(), 0
    for sentence in split_sentences(text):
        assert sentence[0].isupper() and sentence[-1] in ".!?" and 20 <= len(sentence) <= 320
        at = text.index(sentence, at) + len(sentence)
        assert text[at : at + 1] in ("", " ") and not sentence.endswith(("Mr.", "e.g."))
    for start in ("The wheel turns around.", "Mr. Smith sat there."):
        assert (
            split_sentences(f"{start} {text}".strip())[:1] in ([start], [f"{start} no end here"]) or parts[0][0] == "n"
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "A", "b", "B", "straße", "STRASSE", "c"]), max_size=8))
def test_what_occurs_once_is_found_whatever_the_case_in_its_order(values: list[str]) -> None:
    folded = [v.casefold() for v in values]
    assert unique(values) == [v for v, f in zip(values, folded, strict=True) if folded.count(f) == 1]


@pytest.mark.parametrize(("sign", "without_blanks"), [
    ("中", True), ("の", True), ("ไ", True), ("က", True), ("々", True), ("ｱ", True), ("한", False), ("a", False),
    ("я", False), ("ع", False), ("、", False), ("1", False), (" ", False),
])  # fmt: skip
def test_scripts_that_set_no_blanks(sign: str, without_blanks: bool) -> None:
    assert unspaced(sign) is without_blanks


@pytest.mark.parametrize("read", [read_page, read_words])
def test_a_page_that_was_read_is_drawn_as_before(read) -> None:
    shapes = [Drawn("q 1 0 0 1 20 20 cm BT 1 0 0 rg /F1 30 Tf 0 0 Td (forms too) Tj ET Q"), Put("and more", 300, 20)]
    with opened(pdf_bytes([[*shapes, *manual("Alpha", 3)[2]]])) as document:
        page = document[0]
        before = draw_page(page, 72)
        first = read(page, 1)
        assert draw_page(page, 72) == before and read(page, 1) == first
        pixels = np.asarray(PilImage.open(io.BytesIO(before)).convert("RGB"))
        assert (np.ptp(pixels.astype(int), axis=-1) > 100).any(), "its colours too"


@pytest.mark.parametrize("use", [read_page, read_words, lambda page, dpi: draw_page(page, 72)])
def test_a_page_without_area_is_one_that_pdfium_cannot_read(use) -> None:
    data = pdf_bytes([[Put("Hello", 200)]], entries="/CropBox [900 900 950 950]")
    with opened(data) as document, pytest.raises(PdfiumError, match="no area"):
        use(document[0], 1)


@pytest.mark.parametrize("read", [read_page, read_words])
@pytest.mark.parametrize("text", ["lot of", "Hxo", "ox xo"])
def test_a_font_of_one_unit_that_is_scaled_has_the_size_that_is_printed(text: str, read) -> None:
    """Whether the letters in the middle of a line are tall or not."""
    scaled = Drawn(f"BT /F1 1 Tf 12 0 0 12 30 200 Tm ({text}) Tj ET")
    with opened(pdf_bytes([[scaled, Put(text, 100, 12)]])) as document:
        assert [line.size for line in read(document[0], 1).lines] == [12, 12]


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 300), st.sampled_from([(WIDTH, HEIGHT), (3000, 10), (90, 700)]))
def test_a_picture_has_the_resolution_that_is_asked_for_up_to_the_largest_side(dpi: int, size: tuple[int, int]) -> None:
    with opened(pdf_bytes([[]], box=f"0 0 {size[0]} {size[1]}")) as document:
        picture = PilImage.open(io.BytesIO(draw_page(document[0], dpi)))
    scale = min(dpi / 72, MAX_SIDE / max(size))
    assert picture.size == pytest.approx([side * scale for side in size], abs=1) and max(picture.size) <= MAX_SIDE
    assert picture.mode == "L"


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_colours_are_kept_and_grey_is_stored_in_grey(image_format: str) -> None:
    for colour, mode, middle in (
        ("0.5 g", "L", (128,)),
        ("1 0 0 rg", "RGB", (255, 0, 0)),
        ("0 0 1 rg", "RGB", (0, 0, 255)),
    ):
        with opened(pdf_bytes([[Drawn(f"{colour} 50 50 200 300 re f")]])) as document:
            picture = PilImage.open(io.BytesIO(draw_page(document[0], 36, image_format)))
        assert (picture.format, picture.mode) == (image_format.upper(), mode)
        assert np.atleast_1d(picture.getpixel((75, 100))) == pytest.approx(middle, abs=4)
        assert np.atleast_1d(picture.getpixel((5, 5))) == pytest.approx(255, abs=4), "paper is white"


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "corrupt"), (b"%PDF-1.4\nnothing", "corrupt"), (pdf_bytes([[]], locked=True), "encrypted"),
    (pdf_bytes([]), "empty"),
], ids=["nothing", "no PDF", "locked", "no page"])  # fmt: skip
def test_what_cannot_be_read_is_one_countable_reason_that_processes_can_pass_on(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePdf) as caught:
        open_pdf(data)
    passed = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(passed, DataError)
    assert (passed.reason, str(passed)) == (caught.value.reason, str(caught.value)) == (reason, str(passed))
