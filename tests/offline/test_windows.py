"""Windows on pages of random words: what they show, where they are placed, and that only one answer is right."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from vlm_ablate.docmatix.pair import Pair
from vlm_ablate.docmatix.rules import ORDINALS
from vlm_ablate.offline.document_questions import gap
from vlm_ablate.offline.documents import KINDS, describe, variants
from vlm_ablate.offline.placing import place_window
from vlm_ablate.offline.windows import MARGIN, Window, core, plain
from vlm_ablate.pdf.document import Line, PageText, Word
from vlm_ablate.pdf.layout import Layout, face_of

WIDTH, HEIGHT = 300, 400
VOCABULARY = (
    "harbour bridge lantern basket weather anchors (weather) Anchors, 47 1.5 harbour: the of a café naïve-box Straße "
    '/usr/bin run --fast "quoted" rope\'s — • lantern. bridges harbours x=1'
).split()


def a_page(seed: int) -> Layout:
    """Lines of random words, some in bold or typewriter letters, some with wide gaps, some points of a list."""
    rng, lines, y = random.Random(seed), [], 370.0
    while y > 30:
        x, words = rng.choice((20.0, 20.0, 60.0)), []
        for k in range(rng.randint(1, 8)):
            text = rng.choice(VOCABULARY) if k or rng.random() < 0.8 else "•"
            right = x + 4.5 * len(text)
            if right > WIDTH - 10:
                break
            bold = rng.random() < 0.04
            words.append(Word(text, x, y, right, y + 8, bold, rng.random() < 0.04, rng.random() > 0.05))
            x = right + (40 if rng.random() < 0.05 else 4)
        if words:
            text = " ".join(w.text for w in words)
            lines.append(Line(text, words[0].left, y, words[-1].right, y + 8, 8, False, False, tuple(words)))
        y -= rng.choice((11, 11, 11, 24))
    return Layout(PageText(7, WIDTH, HEIGHT, tuple(lines)), face_of([]))


def windows(count: int) -> list[tuple[Layout, Window]]:
    """Windows anywhere on pages, over their edges too."""
    rng, found = random.Random(0), []
    for seed in range(count):
        layout, size = a_page(seed), rng.choice((40, 90, 150, 250, 420))
        found.append((layout, Window(layout, 1.0, rng.randint(-30, 280), rng.randint(-30, 380), size)))
    return found


def place(word: Word, window: Window) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in the window, as printed."""
    height = window.layout.page.height
    return (word.left - window.left, height - word.top - window.top,
            word.right - window.left, height - word.bottom - window.top)  # fmt: skip


def test_a_window_shows_the_words_that_lie_inside_it_and_touches_those_at_its_edge() -> None:
    shown = 0
    for layout, window in windows(60):
        inside, touched = [], []
        for word in (w for line in layout.page.lines for w in line.words):
            left, top, right, bottom = place(word, window)
            pixels = np.floor([left, top]).tolist() + np.ceil([right, bottom]).tolist()
            inside += [word] if min(pixels) >= MARGIN and max(pixels) <= window.size - MARGIN else []
            touched += [word] if pixels[2] > 0 < pixels[3] and max(pixels[:2]) < window.size else []
        assert {id(seen.word) for seen in window.words} == {id(w) for w in inside}
        assert [id(w) for w, _ in window.touched] == [id(w) for w in touched]
        assert {id(seen.line) for seen in window.lines} == {
            id(line) for line in layout.page.lines if any(w in touched for w in line.words)
        }
        for seen in window.words:
            assert seen.box == tuple(map(round, (f(v) for f, v in zip(
                (np.floor, np.floor, np.ceil, np.ceil), place(seen.word, window), strict=True))))  # fmt: skip
            assert seen.text == plain(seen.word.text) and seen.text.isascii() and seen.core == core(seen.text)
            assert seen.readable == (seen.word.whole and "ß" not in seen.word.text)
        shown += len(inside)
    assert shown > 500


def test_lines_come_from_the_top_and_say_where_they_are_cut() -> None:
    for layout, window in windows(60):
        tops = [seen.row[0] for seen in window.lines]
        assert tops == sorted(tops)
        for seen in window.lines:
            whole = [w.word for w in seen.words]
            assert whole == list(seen.line.words[seen.first : seen.first + len(whole)])
            assert seen.starts == (seen.line.words[0] in whole) and seen.ends == (seen.line.words[-1] in whole)
            assert seen.whole == (whole == list(seen.line.words))
            assert [w for run in seen.phrases for w in run] == [w for w in seen.words if w.readable]
            for run in seen.phrases:
                gaps = [b.word.left - a.word.right for a, b in pairwise(run)]
                assert all(gap <= 1.5 * seen.line.size for gap in gaps)
        assert window.text == "\n".join(seen.text for seen in window.lines if seen.words)
        assert [line.text for line in window.whole.lines] == [
            line.text for line in layout.lines if any(seen.line is line and seen.whole for seen in window.lines)
        ]
        assert [seen for row in window.rows for seen in row] == window.lines


@pytest.mark.parametrize("anchor", ["anywhere", "start", "end", "bold", "mono"])
def test_a_window_that_is_placed_holds_what_it_is_placed_for_and_lies_on_the_page(anchor: str) -> None:
    rng, placed = random.Random(1), 0
    for seed in range(40):
        layout, size = a_page(seed), rng.choice((80, 120, 250))
        window = place_window(layout, 1.0, size, anchor, rng)
        if window is None:
            assert anchor in ("bold", "mono")
            lines = [line.words for line in layout.page.lines]
            assert not any(0 < sum(getattr(w, anchor) for w in words) < len(words) for words in lines)
            continue
        assert 0 <= window.left <= WIDTH - size and 0 <= window.top <= HEIGHT - size
        held = {
            "anywhere": bool(window.words), "start": any(s.starts for s in window.lines),
            "end": any(s.ends for s in window.lines), "bold": any(w.word.bold for w in window.words),
            "mono": any(w.word.mono for w in window.words),
        }  # fmt: skip
        assert held[anchor], seed
        placed += 1
        large = place_window(layout, 1.0, 500, anchor, rng)
        assert large is not None and (large.left, large.top) == ((WIDTH - 500) // 2, (HEIGHT - 500) // 2)
    assert placed > 20


def test_an_edge_runs_between_lines_where_that_can_be() -> None:
    """Lines 24 apart leave room for every edge of a window whose side is a multiple of it."""
    words = [Word("harbour", 20, y, 60, y + 8, False, False, True) for y in range(376, 20, -24)]
    lines = tuple(Line("harbour", w.left, w.bottom, w.right, w.top, 8, False, False, (w,)) for w in words)
    layout, rng = Layout(PageText(1, WIDTH, HEIGHT, lines), face_of([])), random.Random(2)
    for _ in range(60):
        window = place_window(layout, 1.0, 120, "anywhere", rng)
        assert window is not None and not window.cut_above and not window.cut_below
        assert all(seen.row[0] >= MARGIN and seen.row[1] <= 120 - MARGIN for seen in window.lines)


def right_answers(pair: Pair, window: Window) -> list[str] | None:
    """All answers to a question that a reader of the window could give; None of kinds that are not worked out here."""
    flat = [core(text) for _, text in window.touched]
    low = [text.lower() for text in flat]
    given = [[core(part).lower() for part in plain(q).split(" ")] for q in re.findall(r'"(.+)"', pair.question)]
    lines = [[core(w.text) for w in seen.words] for seen in window.lines]

    def at(words: list[str]) -> list[int]:
        return [i for i in range(len(low)) if low[i : i + len(words)] == words]

    match pair.kind:
        case "word after":
            return [flat[i + len(given[0])] for i in at(given[0])]
        case "word before":
            return [flat[i - 1] for i in at(given[0])]
        case "gap":
            left, _, right = " ".join(given[0]).partition("____")
            before, after = left.split(), right.split()
            n = len(before)
            return [flat[i + n] for i in at(before) if low[i + n + 1 : i + n + 1 + len(after)] == after]
        case "beginning":
            return [text for text in flat if text.lower().startswith(given[0][0])]
        case "number":
            return [core(text) for _, text in window.touched if any(c.isdigit() for c in text)]
        case "line":
            texts = [seen.text for seen in window.lines if core(seen.text.split(" ")[0]).lower() == given[0][0]]
            return [text.removeprefix("* ") for text in texts]
        case "bullet":
            points = [words for seen, words in zip(window.lines, lines, strict=True) if seen.line.words[0].text == "•"]
            name = re.search(r"the (\w+) bullet", pair.question)[1]
            if name == "only":
                return [words[1] for words in points]
            return [points[ORDINALS.index(name)][1]]
        case "bold" | "typewriter":
            face = "bold" if pair.kind == "bold" else "mono"
            return [" ".join(plain(w.text) for w, _ in window.touched if getattr(w, face)).strip(",;:").rstrip(".")]
        case "start of a line" | "end of a line" if given:
            return [words[-1] for words in lines if [w.lower() for w in words[:2]] == given[0]]
        case "start of a line" | "end of a line":
            name = re.search(r"the (\w+) line", pair.question)[1]
            cut = [seen.row[1] > window.size if name == "last" else seen.row[0] < 0 for seen in window.lines]
            if any(cut):
                return []  # whoever counts lines could count one of which a part is seen, or not
            words = lines[-1 if name == "last" else ORDINALS.index(name)]
            return [words[0] if pair.kind.startswith("start") else words[-1]]
    return None


def test_every_question_has_one_right_answer_and_it_is_shown() -> None:
    rng, kinds = random.Random(3), Counter()
    placed = [
        (kind, window)
        for seed in range(30)
        for kind in KINDS
        if (window := place_window(a_page(seed), 1.0, rng.choice((90, 200)), kind.anchor, rng))
    ]
    anywhere = [(kind, window) for _, window in windows(60) for kind in KINDS]
    for kind, window in placed + anywhere:
        pair = kind.ask(window, rng)
        if not pair or (right := right_answers(pair, window)) is None:
            continue
        answer = plain(pair.answer)
        assert {core(text) for text in right} == {core(answer)} and len(right) == 1, (pair, right, window.text)
        assert answer in " ".join(w.text for w in window.words)
        assert variants(answer, pair.kind)[0] == answer and all(variants(answer, pair.kind))
        assert core(answer.split()[0]) in describe(window)
        kinds[pair.kind] += 1
    assert len(kinds) >= 10 and min(kinds.values()) >= 2, kinds


def test_a_gap_that_two_words_fill_is_not_asked_for() -> None:
    rng, asked = random.Random(4), Counter()
    for _ in range(60):
        lines = [[rng.choice(("harbour", "bridge", "lantern")) for _ in range(4)] for _ in range(3)]
        printed = []
        for k, texts in enumerate(lines):
            y = 300 - 12 * k
            words = tuple(Word(t, 20 + 50 * i, y, 60 + 50 * i, y + 8, False, False, True) for i, t in enumerate(texts))
            printed.append(Line(" ".join(texts), 20, y, 210, y + 8, 50, False, False, words))
        window = Window(Layout(PageText(1, WIDTH, HEIGHT, tuple(printed)), face_of([])), 1.0, 0, 0, 400)
        if pair := gap(window, rng):
            assert right_answers(pair, window) == [pair.answer], (pair, lines)
            asked[pair.answer] += 1
    assert asked.total() > 5
