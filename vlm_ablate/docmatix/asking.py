"""Questions on one page that its text answers: one function a kind, each with several phrasings.

A question is asked only where a reader of the page can tell its answer, and only one answer is right: what occurs
twice is not asked for. Answers stand on the page as written; a count names what was counted as its evidence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from vlm_ablate.docmatix.pair import Pair
from vlm_ablate.pdf.layout import Heading, Layout, unique

Ask = Callable[[Layout, str, random.Random], list[Pair]]

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
DATE = re.compile(
    rf"\b(?:{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?, \d{{4}}|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH} \d{{4}}|"
    rf"{_MONTH} (?:19|20)\d{{2}}|(?:19|20)\d{{2}}-\d{{2}}-\d{{2}})\b"
)
_OTHER_DATE = re.compile(
    r"\b(?:\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2}|"
    rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?|"
    rf"\d{{1,2}}(?:st|nd|rd|th)?\.? (?:of )?{_MONTH})(?![\w.]\d|\w)|\d{{2,4}}年\d{{1,2}}月"
)
"""Dates in formats that are not asked for, but that a reader would name as well."""
_VERSION = re.compile(r"\b(?:Release|Version|Revision|Edition)\s+(\d+(?:\.\d+)+[a-z]?)\b")
_URL = re.compile(r"https?://[^\s<>()\[\]{}\"'’”]+[^\s<>()\[\]{}\"'’”.,;:!?]")
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_FIELD = re.compile(r"^(?P<key>[A-Z][A-Za-z-]+(?: [A-Za-z-]+){0,3}):\s+(?P<value>\S.{1,80})$")
_NUMBER = re.compile(r"(?<![\w.,/:<>=$\\-])\d+(?:[.,]\d+)*(?:\s?%)?(?![\w/:-]|[.,]\d)")
_DEFINED = re.compile(
    r"^(?P<term>(?:(?:The|An?) )?[\w/+-]+(?:\.\w+)*(?: (?!is |are |if |when )[\w/+-]+(?:\.\w+)*){0,3}?)"
    r" (?P<verb>is|are|means|refers to|stands for) (?P<rest>(?:an? |the |one of ).{15,200})[.]$"
)
_SHORT = re.compile(r"\((?P<short>[A-Z]{2,6})\)")
_NOT_A_TERM = re.compile(
    r"^(?:it|this|that|these|those|there|they|he|she|we|you|here|what|which|who|if|in|for|when|one|both|some|all|"
    r"another|following|example|note|note that|if|however|also|then|but|and|so|other|first|second|third|last|next|"
    r"only|most|each|any|no|such|same|result|reason|above|below|latter|former|default|alternative|goal|idea|aim)\b",
    re.IGNORECASE,
)
_NOT_A_KEY = re.compile(r"^(?:note|warning|example|examples|see|see also|tip|caution|important|hint|syntax|http)s?\b",
                        re.IGNORECASE)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def first_heading(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The heading that stands first."""
    if len(layout.headings) < 2:
        return []
    question = rng.choice([
        f"What is the first heading {where}?",
        f"Which heading comes first {where}?",
        f"{_capital(where)}, what does the topmost heading say?",
    ])
    return [Pair(question, layout.headings[0].text, "first heading")]


def only_heading(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The heading of a page that has one."""
    if len(layout.headings) != 1:
        return []
    question = rng.choice([f"What is the heading {where}?", f"Which section begins {where}?",
                           f"{_capital(where)}, what is the section heading?"])
    return [Pair(question, layout.headings[0].text, "heading")]


def last_heading(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The heading that stands last."""
    if len(layout.headings) < 2:
        return []
    question = rng.choice([f"What is the last heading {where}?", f"Which section is the last to begin {where}?"])
    return [Pair(question, layout.headings[-1].text, "last heading")]


def next_heading(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """What follows a heading."""
    texts = set(unique(h.text for h in layout.headings))
    couples = [(a, b) for a, b in zip(layout.headings, layout.headings[1:], strict=False) if a.text in texts]
    return [
        Pair(rng.choice([f"Which heading follows “{a.text}” {where}?",
                         f"{_capital(where)}, what is the next heading after “{a.text}”?"]), b.text, "next heading")
        for a, b in couples
    ]


def _bare(heading: Heading) -> str:
    return heading.text[len(heading.number) :].lstrip(" .:") if heading.number else heading.text


def section_number(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The number of a named section."""
    numbered = [h for h in layout.headings if h.number and re.search(r"\d", h.number)]
    names = set(unique(_bare(h) for h in layout.headings))
    return [
        Pair(rng.choice([f"What is the number of the section “{_bare(h)}”?",
                         f"Which section number does “{_bare(h)}” have {where}?"]), h.number, "section number")
        for h in numbered if _bare(h) in names
    ]


def section_title(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The title of a numbered section."""
    numbers = set(unique(h.number for h in layout.headings if h.number))
    return [
        Pair(rng.choice([f"What is the title of section {h.number}?", f"Which section has the number {h.number}?",
                         f"{_capital(where)}, what is section {h.number} called?"]), _bare(h), "section title")
        for h in layout.headings if h.number in numbers and re.match(r"[A-Z\d]", h.number)
        and not h.number.startswith("Appendix")
    ]


def contents_page(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The page on which a section begins, by the table of contents."""
    titles = set(unique(e.title for e in layout.contents))
    return [
        Pair(rng.choice([
            f"According to the table of contents, on which page does “{e.title}” begin?",
            f"On what page is “{e.title}”?",
            f"Which page number do the contents give for “{e.title}”?",
            f"{_capital(where)}, which page is listed for “{e.title}”?",
        ]), e.page, "contents page")
        for e in layout.contents if e.title in titles and len(e.title) < 90
    ]


def contents_entry(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The entry of a table of contents that names a page alone, or follows another."""
    pages, titles = set(unique(e.page for e in layout.contents)), set(unique(e.title for e in layout.contents))
    on = [Pair(rng.choice([f"According to the contents, what begins on page {e.page}?",
                           f"{_capital(where)}, which entry is listed for page {e.page}?"]), e.title, "contents entry")
          for e in layout.contents if e.page in pages]
    after = [Pair(f"Which entry of the contents comes directly after “{a.title}”?", b.title, "contents entry")
             for a, b in zip(layout.contents, layout.contents[1:], strict=False)
             if {a.title, b.title} <= titles and _listed_next(layout, a.title, b.title)]
    return on + after


def _listed_next(layout: Layout, first: str, second: str) -> bool:
    lines = [line.text for line in layout.lines]
    at = [i for i, text in enumerate(lines[:-1]) if text.startswith(first)]
    return len(at) == 1 and lines[at[0] + 1].startswith(second)


def page_number(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The printed page number."""
    if layout.printed_number is None:
        return []
    question = rng.choice([f"Which page number is printed {where}?", f"What is the page number {where}?"])
    return [Pair(question, layout.printed_number, "page number")]


def running_head(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """What the running head says."""
    top = [line.text for line in layout.page.lines
           if line.text in layout.running and line.bottom > layout.page.height / 2]
    if len(top) != 1 or len(top[0]) > 90 or "…" in top[0]:
        return []
    text = top[0]
    number = layout.printed_number
    if number:
        text = re.sub(rf"^{number}\s+|\s+{number}$", "", text)
    question = rng.choice([f"What does the header {where} say?", f"What is written in the page header {where}?"])
    return [Pair(question, text, "page header")]


def caption(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """What a figure or table shows, by its caption."""
    labels = set(unique(c.label for c in layout.captions))
    return [Pair(rng.choice([f"What is the caption of {c.label}?", f"What does {c.label} show, by its caption?"]),
                 c.text, "caption") for c in layout.captions if c.label in labels]


def dates(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The only date of a page."""
    text = "\n".join(line.text for line in layout.lines)
    found = sorted(set(DATE.findall(text)))
    if len(found) != 1 or _OTHER_DATE.search(DATE.sub("", text)):
        return []
    question = rng.choice([f"Which date is given {where}?", f"What date appears {where}?"])
    return [Pair(question, found[0], "date")]


def versions(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The only release, version or edition of a page."""
    found = {(m[0].split()[0].lower(), m[1]) for line in layout.lines for m in _VERSION.finditer(line.text)}
    if len(found) != 1:
        return []
    word, number = found.pop()
    return [Pair(rng.choice([f"Which {word} is named {where}?", f"What is the {word} number {where}?"]), number,
                 "version")]


def addresses(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The only web or mail address of a page."""
    # An address at the end of a line may go on in the next.
    texts = [line.text for line in layout.lines if not re.search(r"(?:https?:\S*|@\S*)$", line.text)]
    every = "\n".join(line.text for line in layout.lines)
    pairs = []
    for pattern, word in ((_URL, "web address"), (_MAIL, "e-mail address")):
        found = {u for text in texts for u in pattern.findall(text)}
        if len(found) == 1 and len(set(pattern.findall(every))) == 1:
            pairs.append(Pair(rng.choice([f"Which {word} is given {where}?", f"What is the {word} {where}?"]),
                              found.pop(), "address"))
    return pairs


def fields(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """Values of lines such as "Maintainer: The Team"."""
    found = [m for line in layout.lines if not line.mono and (m := _FIELD.match(line.text))]
    keys = set(unique(m["key"] for m in found))
    return [
        Pair(rng.choice([f"What is the value of “{m['key']}” {where}?", f"What is given for “{m['key']}” {where}?"]),
             m["value"].rstrip(), "field")
        for m in found
        if m["key"] in keys and not _NOT_A_KEY.match(m["key"]) and len(m["value"].split()) <= 8
        and m["value"][-1] not in ",;:-" and "?" not in m["value"]
    ]


def definitions(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """What a sentence says something is."""
    pairs = []
    for sentence in layout.sentences:
        m = _DEFINED.match(sentence)
        if not m or "?" in m["rest"] or re.search(r"[.!]\s", m["rest"]):
            continue
        term = re.sub(r"^(?:The|An?) ", lambda article: article[0].lower(), m["term"])
        bare = re.sub(r"^(?:the|an?) ", "", term)
        if _NOT_A_TERM.match(bare) or not re.match(r"[\w.]", bare) or (m["verb"] == "are" and bare.isupper()):
            continue
        verb = "are" if m["verb"] == "are" else "is"
        asked = {"means": f"What does {term} mean?", "refers to": f"What does {term} refer to?",
                 "stands for": f"What does {term} stand for?"}.get(m["verb"], f"What {verb} {term}?")
        pairs.append(Pair(rng.choice([asked, f"According to the text {where}, {asked[0].lower()}{asked[1:]}"]),
                          _capital(m["rest"]), "definition"))
    return pairs


def abbreviations(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """What a short form in parentheses stands for."""
    pairs = []
    for sentence in layout.sentences:
        for m in _SHORT.finditer(sentence):
            words = sentence[: m.start()].split()[-len(m["short"]) :]
            if [w[0].upper() for w in words if w[0].isalpha()] == list(m["short"]):
                question = rng.choice([f"What does {m['short']} stand for?", f"What is {m['short']} short for?"])
                pairs.append(Pair(question, " ".join(words), "abbreviation"))
    return pairs


def blanks(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The number that is left out of a sentence."""
    pairs = []
    for sentence in layout.sentences:
        if "…" in sentence or len(sentence) > 220 or re.search(r"[.:] [a-z]", sentence):
            continue
        numbers = [m for m in _NUMBER.finditer(sentence) if not re.search(r"[(\[§]$", sentence[: m.start()].rstrip())]
        reference = re.search(r"\b(?:section|chapter|appendix|page|table|figure|p|version|release)\b", sentence, re.I)
        if len(numbers) != 1 or reference or len(_NUMBER.findall(sentence)) != 1:
            continue
        m = numbers[0]
        # "listed in 4.9," names a section; "priority. 4 If" has a footnote's mark.
        if sentence[: m.start()].rstrip().endswith((".", "!", "?")):
            continue
        if re.match(r"[.,;:)]", sentence[m.end() :]) and re.search(
            r"(?:\bin|\bsee|\bof|\bfrom|[.,:;])$", sentence[: m.start()].rstrip()
        ):
            continue
        gap = f"{sentence[: m.start()]}____{sentence[m.end() :]}"
        question = rng.choice([f"Which number is missing: “{gap}”?", f"Fill in the number {where}: “{gap}”"])
        pairs.append(Pair(question, m[0], "number in a sentence"))
    return pairs


def first_sentence(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """The sentence below a heading."""
    pairs = []
    texts = set(unique(h.text for h in layout.headings))
    for heading, following in zip(layout.headings, [*layout.headings[1:], None], strict=False):
        below = layout.lines[heading.stop : following.start if following else None]
        if not below or heading.text not in texts:
            continue
        sentence = next((s for s in layout.sentences if s[:30] == below[0].text[:30]), None)
        if sentence:
            question = rng.choice([f"How does the section “{heading.text}” begin?",
                                   f"What is the first sentence under “{heading.text}”?",
                                   f"{_capital(where)}, what does the text say first under “{heading.text}”?"])
            pairs.append(Pair(question, sentence, "first sentence"))
    return pairs


def counts(layout: Layout, where: str, rng: random.Random) -> list[Pair]:
    """How many headings or points a page has."""
    pairs = []
    numbered = [h.text for h in layout.headings if h.number]
    if 2 <= len(numbered) == len(layout.headings) <= 12:
        question = f"How many numbered section headings are there {where}?"
        pairs.append(Pair(question, str(len(numbered)), "count", tuple(numbered)))
    # Points with marks of two kinds may be points and sub-points: a reader could count either.
    if 2 <= len(layout.bullets) <= 15 and len({b[0] for b in layout.bullets}) == 1:
        question = rng.choice([f"How many bullet points are there {where}?", f"How many bulleted items begin {where}?"])
        pairs.append(Pair(question, str(len(layout.bullets)), "count", tuple(layout.bullets)))
    return pairs


KINDS: tuple[Ask, ...] = (
    first_heading, only_heading, last_heading, next_heading, section_number, section_title, contents_page,
    contents_entry, page_number, running_head, caption, dates, versions, addresses, fields, definitions, abbreviations,
    blanks, first_sentence, counts,
)


def document_title(layout: Layout, rng: random.Random) -> list[Pair]:
    """The title of a PDF, from its first page: its largest text, in the upper two thirds."""
    lines = [line for line in layout.page.lines if sum(c.isalpha() for c in line.text) > 2]
    if not lines:
        return []
    size = max(line.size for line in lines)
    largest = [line for line in lines if line.size == size]
    if size < 1.3 * layout.face.body_size and len(lines) > 3:
        return []
    if len(largest) > 3 or largest[0].top < layout.page.height / 3 or size == min(line.size for line in lines):
        return []
    title = " ".join(line.text for line in largest)
    return [Pair(rng.choice(["What is the title of this document?", "What is the document called?",
                             "Which title stands on the first page?"]), title, "title")]
