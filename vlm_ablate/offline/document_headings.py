"""Questions on headings, tables of contents and fields in a window of a printed page: one function a kind."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_ablate.docmatix import asking
from vlm_ablate.docmatix.pair import Pair
from vlm_ablate.offline.document_questions import Ask, quoted, worth
from vlm_ablate.offline.windows import SeenLine, Window, plain
from vlm_ablate.pdf.layout import Layout, unique


def below_heading(window: Window, rng: random.Random) -> Pair | None:
    """The first word below a heading."""
    heads = {id(window.whole.lines[h.stop - 1]): h for h in window.whole.headings if len(h.text) < 70}
    found = []
    for row, below in zip(window.rows, window.rows[1:], strict=False):
        heading = heads.get(id(row[0].line))
        if heading and len(row) == len(below) == 1 and below[0].starts and worth(below[0].words[0]):
            found.append((plain(heading.text), below[0].words[0].core))
    found = [(text, word) for text, word in found if '"' not in text and window.text.count(text) == 1]
    if not found:
        return None
    heading_text, word = rng.choice(found)
    return Pair(rng.choice([f'What is the first word below the heading "{heading_text}"?',
                            f'With which word does the text under "{heading_text}" begin?']), word, "below a heading")


def heading_start(window: Window, rng: random.Random) -> Pair | None:
    """The first words of a numbered heading by its number, or its number by them."""
    layout, seen_of = window.layout, {id(seen.line): seen for seen in window.lines}
    found = []
    for heading in layout.headings:
        seen = seen_of.get(id(layout.lines[heading.start]))
        if seen is None or not seen.starts or len(seen.words) < 2:
            continue
        if seen.words[0].text.rstrip(".:") == heading.number and worth(seen.words[1]):
            found.append((heading.number, seen))
    if not found:
        return None
    number, seen = rng.choice(found)
    if rng.random() < 0.6:
        return Pair(rng.choice([f"With which word does the title of section {number} begin?",
                                f"What is the first word of the heading of section {number}?"]),
                    seen.words[1].core, "start of a heading")
    first = quoted(seen.words[1:4])
    if not first or not all(w.readable for w in seen.words[1:4]):
        return None
    return Pair(rng.choice([f'What is the number of the section whose title begins "{first}"?',
                            f'Which number stands before the heading "{first}"?' if seen.ends and len(seen.words) < 5
                            else f'Which number stands before the heading that begins "{first}"?']),
                number, "section number")


def adopted(asks: Sequence[asking.Ask], view: Callable[[Window], Layout], *, order: bool = False) -> Ask:
    """One of the questions that are asked on whole pages; `order`: only where no heading is shown in part."""

    def ask(window: Window, rng: random.Random) -> Pair | None:
        if order and window.cuts_heading:
            return None
        where = rng.choice(("in this picture", "on this part of the page"))
        pairs = [pair for kind in asks for pair in kind(view(window), where, rng)]
        return rng.choice(pairs) if pairs else None

    return ask


heading = adopted((asking.first_heading, asking.only_heading, asking.last_heading, asking.next_heading),
                  lambda window: window.whole, order=True)
section = adopted((asking.section_number, asking.section_title), lambda window: window.whole)
caption = adopted((asking.caption,), lambda window: window.whole)
field = adopted((asking.fields,), lambda window: window.whole)
_dated = adopted((asking.dates, asking.versions, asking.addresses), lambda window: window.shown)
listed_page = adopted((asking.contents_page, asking.contents_entry), lambda window: window.whole)


def dated(window: Window, rng: random.Random) -> Pair | None:
    """The only date, version or address, other than that of a running head, which many pages share."""
    pair = _dated(window, rng)
    running = [seen.text for seen in window.lines if seen.line.text in window.layout.running]
    return None if pair is None or any(pair.answer in text for text in running) else pair


_SECTION = re.compile(r"^(?:\d+|[A-Z]|[IVX]+)(?:\.\d+)*\.?$")


@dataclass(frozen=True)
class Listed:
    """The number and title of an entry of contents."""

    number: str
    title: str


def _listed(seen: SeenLine) -> Listed | None:
    """What a line of contents lists, where its number and title are shown."""
    words, all_words = seen.words, seen.line.words
    leaders = [k for k, w in enumerate(all_words) if re.fullmatch(r"[. ]+", w.text)]
    stop = leaders[0] if leaders else len(all_words) - 1
    if not seen.starts or not 2 <= stop <= len(words) or not re.fullmatch(r"\d+|[ivxlc]+", all_words[-1].text):
        return None
    shown = words[:stop]
    if not _SECTION.match(shown[0].text) or not all(w.readable for w in shown) or "." in shown[-1].text:
        return None
    return Listed(shown[0].text.rstrip("."), " ".join(w.text for w in shown[1:]))


def contents(window: Window, rng: random.Random) -> Pair | None:
    """The number of an entry of contents, or the title of a number."""
    if not window.layout.is_contents:
        return None
    entries = [entry for seen in window.lines if (entry := _listed(seen))]
    titles, numbers = set(unique(e.title for e in entries)), set(unique(e.number for e in entries))
    entries = [e for e in entries if e.title in titles and e.number in numbers and '"' not in e.title]
    if not entries:
        return None
    entry = rng.choice(entries)
    if rng.random() < 0.7:
        return Pair(rng.choice([f"Which title does the list give for number {entry.number}?",
                                f"What is listed as number {entry.number}?"]), entry.title, "contents entry")
    return Pair(rng.choice([f'Which number is listed for "{entry.title}"?',
                            f'What is the section number of "{entry.title}" in the list?']), entry.number,
                "contents number")
