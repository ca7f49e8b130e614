"""Pages that were laid out are taken apart into what was laid out."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from vlm_ablate.pdf.document import Line, PageText
from vlm_ablate.pdf.layout import Layout, face_of

WORDS = "a basket holds every kind of small harbour light that turns below the old wooden bridge near town".split()
TITLES = "Harbour Lights Bridges Rope Work Boats Sails Weather Charts Tides Anchors".split()


def said(rng: random.Random, count: int) -> str:
    """Words in a row, without a capital."""
    return " ".join(rng.choice(WORDS) for _ in range(count))


class Sheet:
    """A page in the making, from the top."""

    def __init__(self, number: int) -> None:
        self.number, self.y, self.lines = number, 700.0, []
        self.headings: list[tuple[str, str]] = []
        self.captions: list[tuple[str, str]] = []
        self.bullets: list[str] = []
        self.paragraphs: list[str] = []

    def put(
        self, text: str, size: float = 10, *, y: float | None = None, bold: bool = False, mono: bool = False
    ) -> None:
        """A line, the next one below the last."""
        if y is None:
            y, self.y = self.y, self.y - 1.2 * size
        self.lines.append(Line(text, 50, y, 50 + 5 * len(text), y + size, size, bold, mono))

    def gap(self) -> None:
        """Some room before what comes next."""
        self.y -= 30

    def page(self) -> PageText:
        """What was put."""
        return PageText(self.number, 600, 800, tuple(self.lines))


def written(rng: random.Random, number: int) -> Sheet:
    """A page with a head, its number, and parts in a random order."""
    sheet = Sheet(number)
    sheet.put("The Harbour Book", y=780)
    sheet.put(str(number + 4), y=20)
    parts = ["heading", "paragraph", "caption", "bullet", "code", "paragraph", "paragraph"]
    rng.shuffle(parts)
    for part in parts:
        sheet.gap()
        if part == "heading":
            section, lines = f"{rng.randint(1, 9)}.{rng.randint(1, 9)}", rng.randint(1, 2)
            title = " ".join(rng.sample(TITLES, 4))
            texts = [f"{section} {title}"] if lines == 1 else [f"{section} {title}", " ".join(rng.sample(TITLES, 3))]
            for text in texts:
                sheet.put(text, 16)
            sheet.headings.append((" ".join(texts), section))
        elif part == "paragraph":
            lines = [said(rng, rng.randint(6, 9)) for _ in range(rng.randint(2, 4))]
            for text in lines:
                sheet.put(text)
            sheet.paragraphs.append(" ".join(lines))
        elif part == "caption":
            label, text = f"{rng.choice(('Figure', 'Table'))} {rng.randint(1, 30)}", rng.choice(TITLES)
            sheet.put(f"{label}: {text} by day")
            sheet.captions.append((label, f"{text} by day"))
        elif part == "bullet":
            sheet.bullets.append(f"• {said(rng, 4)}")
            sheet.put(sheet.bullets[-1])
        else:
            sheet.put("print(lights, 2)", mono=True)
    return sheet


@pytest.fixture(scope="module")
def book() -> list[Sheet]:
    """Some pages of one book."""
    rng = random.Random(0)
    return [written(rng, number) for number in range(1, 25)]


def layouts(book: list[Sheet]) -> Iterator[tuple[Sheet, Layout]]:
    """Each page taken apart, with the face of the whole."""
    face = face_of([sheet.page() for sheet in book])
    return ((sheet, Layout(sheet.page(), face)) for sheet in book)


def test_headings_captions_points_and_paragraphs_are_those_that_were_put(book: list[Sheet]) -> None:
    for sheet, layout in layouts(book):
        assert [(h.text, h.number) for h in layout.headings] == sheet.headings
        assert [(c.label, c.text) for c in layout.captions] == sheet.captions
        assert layout.bullets == sheet.bullets and layout.paragraphs == sheet.paragraphs
        for heading in layout.headings:
            assert " ".join(line.text for line in layout.lines[heading.start : heading.stop]) == heading.text


def test_running_heads_and_numbers_are_no_part_of_the_text(book: list[Sheet]) -> None:
    for sheet, layout in layouts(book):
        assert layout.running == ["The Harbour Book"] and layout.printed_number == str(sheet.number + 4)
        left_out = {line.text for line in layout.page.lines} - {line.text for line in layout.lines}
        assert left_out == {"The Harbour Book", str(sheet.number + 4)}
        assert len(layout.lines) == len(layout.page.lines) - 2


def test_a_face_does_not_depend_on_the_order_of_the_pages(book: list[Sheet]) -> None:
    pages = [sheet.page() for sheet in book]
    shuffled = random.Random(1).sample(pages, len(pages))
    assert face_of(shuffled) == face_of(pages) == face_of([*pages, PageText(99, 600, 800, ())])
    assert (face_of(pages).body_size, face_of(pages).offset) == (10, 4)
    assert face_of([]).offset is None and face_of([]).running == frozenset()


def test_a_number_that_few_pages_bear_out_is_none(book: list[Sheet]) -> None:
    pages = [sheet.page() for sheet in book]
    wrong = [PageText(p.number, p.width, p.height, tuple(
        Line(str(7 * p.number), *list(vars(line).values())[1:8]) if line.text.isdigit() else line for line in p.lines
    )) for p in pages[:6]]  # fmt: skip
    assert face_of(wrong).offset is None
    assert Layout(wrong[0], face_of(wrong)).printed_number is None


@pytest.mark.parametrize("dots", [" . . . . . . ", " ....... ", "......"])
def test_contents_are_their_titles_and_pages(dots: str) -> None:
    rng, sheet = random.Random(2), Sheet(2)
    entries = [(f"{n} {' '.join(rng.sample(TITLES, 2))}", str(3 * n)) for n in range(1, 9)]
    for title, page in entries:
        sheet.put(f"{title}{dots}{page}")
    layout = Layout(sheet.page(), face_of([sheet.page()]))
    assert [(e.title, e.page) for e in layout.contents] == entries and layout.is_contents
    assert layout.headings == [] == layout.sentences
    few = Layout(PageText(2, 600, 800, tuple(sheet.lines[:3])), face_of([]))
    assert few.contents == []


@pytest.mark.parametrize("apart", [False, True])
def test_a_heading_goes_on_in_the_next_line_and_not_beyond_a_gap(apart: bool) -> None:
    sheet = Sheet(1)
    sheet.put("Harbour Lights", 16)
    if apart:
        sheet.gap()
    sheet.put("Of Bridges and Rope", 16)
    for text in ("it turns below the old bridge near town", "every basket holds a small light", "that turns near town"):
        sheet.put(text)
    found = [h.text for h in Layout(sheet.page(), face_of([sheet.page()])).headings]
    assert found == (["Harbour Lights", "Of Bridges and Rope"] if apart else ["Harbour Lights Of Bridges and Rope"])
