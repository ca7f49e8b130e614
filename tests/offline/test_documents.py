"""Windows on pages: what is asked is shown, and has one answer."""

from __future__ import annotations

import gzip
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.docmatix.pdfs import HEIGHT, Put, page, pdf_bytes
from tests.offline.conftest import Place
from tests.offline.fetched import needs
from tests.offline.manuals import put_manuals
from vlm_ablate.docmatix.rules import ORDINALS
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.evaluation.metrics.anls import Anls, similarity
from vlm_ablate.offline.debian import documents as material
from vlm_ablate.offline.debian.documents import page_layout, pages
from vlm_ablate.offline.documents import KINDS, asked, documents
from vlm_ablate.offline.pictures import SPLITS
from vlm_ablate.offline.windows import Window, plain

SIZES = (64, 128, 256, 640)


@pytest.fixture
def manuals(place: Place) -> None:
    """Tiny manuals in the places of the real ones."""
    put_manuals(place)


def packed(pages: list[list[Put]]) -> bytes:
    """A gzipped PDF."""
    return gzip.compress(pdf_bytes(pages), mtime=0)


def cores(window: Window, *, cut: bool) -> list[list[str]]:
    """Words by row, straight from the page: those wholly in the window, or also those that its edge cuts."""
    words: list[tuple[float, float, float, str]] = []
    height = window.layout.page.height
    for line, word in ((on, w) for on in window.layout.page.lines for w in on.words):
        left, right = word.left - window.left, word.right - window.left
        top, bottom = height - word.top - window.top, height - word.bottom - window.top
        inside = left >= 0 and top >= 0 and right <= window.size and bottom <= window.size
        touched = right > 0 and bottom > 0 and left < window.size and top < window.size
        if inside or (cut and touched):
            top, bottom = height - line.top - window.top, height - line.bottom - window.top
            words.append((top, bottom, left, plain(word.text).strip("\"'`()[]{},;:!?.*")))
    rows: list[list[tuple[float, float, float, str]]] = []
    for one in sorted(words, key=lambda word: word[1]):
        beside = rows and any(min(one[1], o[1]) - max(one[0], o[0]) > 0.3 * min(one[1] - one[0], o[1] - o[0])
                              for o in rows[-1])
        rows = [*rows[:-1], [*rows[-1], one]] if beside else [*rows, [one]]
    return [[text for *_, text in sorted(row, key=lambda word: word[2])] for row in rows]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("manuals")
def test_an_item_is_a_function_of_its_arguments(size: int) -> None:
    for split in SPLITS:
        for index in range(8):
            first, again = documents(split, index, size), documents(split, index, size)
            assert first.id == f"documents/{split}/{index}" and first.image.shape == (size, size, 3)
            assert np.array_equal(first.image, again.image) and first.image.dtype == np.uint8
            assert vars(first).keys() == vars(again).keys()
            assert all(vars(first)[k] == vars(again)[k] for k in vars(first) if k != "image")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("manuals")
def test_answers_are_shown_short_and_plain(size: int) -> None:
    check_items("report", range(60), size)


def check_items(split: material.Split, indices: range, size: int) -> None:
    for index in indices:
        item = documents(split, index, size)
        assert item.question.isascii() and item.answer.isascii() and item.description.isascii()
        assert len(item.answer.split()) <= 12 and item.references[0] == item.answer
        assert Anls().score(item.answer, item.references).value == 1
        shown = " ".join(region.text for region in item.regions)
        assert item.answer in shown and item.answer in item.description.replace(" / ", " "), item
        for region in item.regions:
            left, top, right, bottom = region.box
            assert 0 < left < right < size and 0 < top < bottom < size
            # A dot is a single grey pixel.
            assert item.image[top:bottom, left:right].min() < (200 if len(region.text) > 2 else 250)


@pytest.mark.usefixtures("manuals")
def test_answers_follow_from_the_boxes() -> None:
    assert check_answers("report", range(150), 128) > 30
    assert check_answers("report", range(100), 400) > 20


def check_answers(split: material.Split, indices: range, size: int) -> int:
    """Work the answers out again, from the page's boxes alone; how many there were."""
    done = 0
    for index in indices:
        window, _, pair = asked(split, index, size)
        rows, answer = cores(window, cut=False), plain(pair.answer)
        flat = [word.lower() for row in rows for word in row]
        given = [w.strip("\"'`()[]{},;:!?.*").lower() for w in " ".join(re.findall(r'"(.+)"', pair.question)).split()]
        where = [i for i in range(len(flat)) if flat[i : i + len(given)] == given]
        if pair.kind == "word after":
            assert [flat[i + len(given)] for i in where] == [answer.lower()], pair
        elif pair.kind == "word before":
            assert [flat[i - 1] for i in where] == [answer.lower()], pair
        elif pair.kind == "beginning":
            every = [word for row in cores(window, cut=True) for word in row]
            assert [w for w in every if w.lower().startswith(given[0])] == [answer], pair
        elif pair.kind == "start of a line" and "last" not in pair.question:
            ordinal = next(k for k, name in enumerate(ORDINALS) if f" {name} line" in pair.question)
            assert cores(window, cut=True)[ordinal][0] == answer, pair
        elif pair.kind == "end of a line" and (found := re.search(r"the (\w+) line ?", pair.question)):
            ordinal = -1 if found[1] == "last" else ORDINALS.index(found[1])
            assert cores(window, cut=True)[ordinal][-1] == answer, pair
        else:
            continue
        done += 1
    return done


@pytest.mark.usefixtures("manuals")
def test_a_window_larger_than_the_page_has_it_in_its_middle() -> None:
    item = documents("tune", 0, 640)
    ink = np.argwhere(item.image.min(-1) < 128)
    assert ink[:, 0].min() >= 120 and ink[:, 0].max() < 520 and ink[:, 1].min() >= 170 and ink[:, 1].max() < 470


@pytest.mark.usefixtures("manuals")
def test_every_page_comes_round() -> None:
    pool = pages("report")
    shown = {(document, window.layout.page.number) for window, document, _ in
             (asked("report", index, 256) for index in range(len(pool)))}
    assert shown == set(pool)


def test_bold_and_code_are_told_from_the_rest(place: Place) -> None:
    lines = [*(f"These are words number {word} of a text" for word in ("one", "two", "three", "four"))]
    made = [*page(*lines), Put("and", 290), Put("shining", 290, 8, "F2", x=50), Put("or", 280),
            Put("run --now", 280, 8, "F3", x=50)]
    put_manuals(place, {"fhs-3.0.pdf.gz": packed([made])})
    answers: dict[str, set[str]] = {}
    for index in range(150):
        item, (_, _, pair) = documents("tune", index, 400), asked("tune", index, 400)
        answers.setdefault(pair.kind, set()).add(item.answer)
        assert "in bold: shining" in item.description and "in typewriter letters: run --now" in item.description
    assert answers["bold"] == {"shining"} and answers["typewriter"] == {"run --now"}
    assert answers["end of a line"] >= {"text"} and "number" not in answers


def test_what_stands_twice_is_not_asked_for(place: Place) -> None:
    put_manuals(place, {"fhs-3.0.pdf.gz": packed([page(*["the same words stand in every line"] * 4)])})
    for index in range(60):
        pair = asked("tune", index, 400)[2]
        assert pair.kind in ("start of a line", "end of a line")


def test_a_page_without_anything_to_ask_is_an_error(place: Place) -> None:
    put_manuals(place, {"fhs-3.0.pdf.gz": packed([page(*["a 1 b 2 c 3 d 4"] * 4)])})
    with pytest.raises(DataError, match="no question was found for item 0"):
        documents("tune", 0, 128)


def test_a_split_without_pages_is_an_error(place: Place) -> None:
    put_manuals(place, {"fhs-3.0.pdf.gz": packed([[Put("Title", HEIGHT / 2)]])})
    with pytest.raises(DataError, match="no document of the tune split"):
        documents("tune", 0, 128)


def test_without_the_manuals_the_message_says_how_to_get_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    with pytest.raises(AssetMissing, match="vlm-ablate data fetch documents"):
        documents("train", 0, 128)


@needs("documents")
class TestRealManuals:
    """What the real manuals give."""

    def test_there_are_741_pages_691_without_the_hierarchy_standard(self) -> None:
        found = {document.name: document.count for document in material.documents()}
        assert sum(found.values()) == 741 and sum(found.values()) - found["debian-policy/fhs-3.0"] == 691
        assert {split: len(pages(split)) for split in SPLITS} == {"train": 414, "tune": 48, "report": 234}

    def test_words_are_joined_at_underscores_and_not_at_divisions(self) -> None:
        lines = [line for document, n in pages("train") for line in page_layout(document, n).page.lines]
        texts = {word.text: word.whole for line in lines for word in line.words}
        assert texts["FIT_LOG"] and "isosur" in texts and not texts["isosur"]

    @pytest.mark.parametrize("size", SIZES)
    def test_answers_are_shown_short_and_plain(self, size: int) -> None:
        for split in SPLITS:
            check_items(split, range(40), size)

    @pytest.mark.parametrize("size", [128, 256])
    def test_answers_follow_from_the_boxes(self, size: int) -> None:
        assert sum(check_answers(split, range(150), size) for split in SPLITS) > 150

    def test_questions_are_of_many_kinds_and_no_answer_is_frequent(self) -> None:
        made = [(asked("report", i, 128)[2].kind, documents("report", i, 128)) for i in range(500)]
        kinds = {kind: sum(k == kind for k, _ in made) for kind, _ in made}
        assert len(kinds) >= 15 and max(kinds.values()) < 0.25 * len(made)
        guesses = {item.answer for _, item in made}
        best = max(sum(max(similarity(guess, r) for r in item.references) for _, item in made) for guess in guesses)
        assert best / len(made) < 0.03

    def test_consecutive_items_differ(self) -> None:
        made = [documents("tune", i, 128) for i in range(60)]
        assert all(not np.array_equal(a.image, b.image) for a, b in pairwise(made))


def test_weights_name_every_kind_once() -> None:
    assert len({kind.ask for kind in KINDS}) == len(KINDS) and all(kind.weight > 0 for kind in KINDS)
