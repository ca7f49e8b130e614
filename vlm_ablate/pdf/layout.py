"""What the lines of a page are: running heads, page numbers, headings, contents, captions, lists, sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlm_ablate.pdf.document import Line, PageText

_EDGE = 0.09
"""Share of a page's height at its top and bottom where running heads and page numbers stand."""
_NUMBERED = re.compile(r"^((?:\d{1,2}\.)*\d{1,2}\.?|[A-Z]\.\d+(?:\.\d+)*\.?|Appendix [A-Z][.:]?)\s+(?=.*[^\W\d_])")
_CONTENTS = re.compile(r"^(?P<title>.*?\w.*?)\s*(?:\.\s?){4,}\s*(?P<page>\d{1,4}|[ivxlc]{1,7})$")
_CONTENTS_BARE = re.compile(r"^(?P<title>(?:\d+(?:\.\d+)*\.?\s+)?[^\W\d_].{2,}?)\s(?P<page>\d{1,4}|[ivxlc]{1,7})$")
_CAPTION = re.compile(r"^(?P<what>Figure|Fig\.|Table)\s+(?P<number>[A-Z]?\d+(?:[.-]\d+)*)\s*[:.–—-]?\s+(?P<text>\S.*)$")
_BULLET = re.compile(r"^[•◦▪●∙·‣–∗*-]\s+\S")
_ITEM = re.compile(r"^(\d{1,2})[.)]\s+\S")
_CHAPTER = re.compile(
    r"^(?:(?:chapter|appendix|part)(?:\s+\w+)?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|twenty(?:-\w+)?|[ivxlc]+|\d+)$", re.IGNORECASE,
)
"""A chapter's number on a line of its own."""


def _match_contents(text: str) -> re.Match[str] | None:
    # The pattern is slow on long lines that do not match; counting leaders first is not.
    return _CONTENTS.match(text) if text.count(".") >= 4 else None


@dataclass(frozen=True)
class Face:
    """What is common to the pages of a PDF."""

    body_size: float
    """Size of most of its text."""
    running: frozenset[str]
    """Running heads and feet, without their digits."""
    offset: int | None
    """Printed page number minus the page's number in the file, where most pages agree on it."""


@dataclass(frozen=True)
class Heading:
    """A heading; `start` and `stop` are its place among the page's lines."""

    text: str
    number: str
    """Its section number, or ""."""
    size: float
    start: int
    stop: int


@dataclass(frozen=True)
class ContentsLine:
    """A line of a table of contents."""

    title: str
    page: str


@dataclass(frozen=True)
class Caption:
    """Caption of a figure or table."""

    label: str
    """As printed, e.g. "Table 3"."""
    text: str


def face_of(pages: Sequence[PageText]) -> Face:
    """The PDF's body size, running heads and page numbering."""
    sizes: Counter[float] = Counter()
    edges: Counter[str] = Counter()
    offsets: Counter[int] = Counter()
    for page in pages:
        for line in page.lines:
            sizes[line.size] += len(line.text)
        at_edge = [line for line in page.lines if at_page_edge(line, page)]
        edges.update({_digitless(line.text) for line in at_edge})
        offsets.update({int(n) - page.number for line in at_edge for n in sorted(_edge_numbers(line.text))})
    offset, times = offsets.most_common(1)[0] if offsets else (0, 0)
    running = frozenset(text for text, count in edges.items() if count >= 3 or (count > 1 and len(pages) < 8))
    return Face(
        sizes.most_common(1)[0][0] if sizes else 10.0, running,
        offset if times >= max(3, len(pages) // 3) else None,
    )


def at_page_edge(line: Line, page: PageText) -> bool:
    """Whether the line stands where running heads and page numbers do."""
    return line.bottom > page.height * (1 - _EDGE) or line.top < page.height * _EDGE


def _digitless(text: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "", text).strip()


def _edge_numbers(text: str) -> set[str]:
    found = re.match(r"^(\d{1,4})\b", text), re.search(r"\b(\d{1,4})$", text)
    return {m[1] for m in found if m}


class Layout:
    """One page, taken apart.

    Args:
        page: its lines.
        face: of the whole PDF.
    """

    def __init__(self, page: PageText, face: Face) -> None:
        self.page, self.face = page, face
        self._expected = None if face.offset is None else str(page.number + face.offset)
        self.lines = [line for line in page.lines if not self._runs(line)]

    def _runs(self, line: Line) -> bool:
        if not at_page_edge(line, self.page):
            return False
        bare = _digitless(line.text)
        # A section's name beside the page number runs as well, though it changes from page to page.
        numbered = self._expected is not None and self._expected in _edge_numbers(line.text)
        return not bare or bare in self.face.running or numbered

    @cached_property
    def running(self) -> list[str]:
        """Running heads and feet that say something, as printed."""
        return [line.text for line in self.page.lines if self._runs(line) and len(_digitless(line.text)) > 3]

    @cached_property
    def printed_number(self) -> str | None:
        """The page number printed on the page."""
        edges = [line.text for line in self.page.lines if at_page_edge(line, self.page)]
        return self._expected if any(self._expected in _edge_numbers(text) for text in edges) else None

    @cached_property
    def contents(self) -> list[ContentsLine]:
        """Entries of a table of contents that stand on one line each."""
        found = [(i, m) for i, line in enumerate(self.lines) if (m := _match_contents(line.text))]
        if len(found) < 4:
            return []
        matches = [m for _, m in found]
        if len(found) >= 0.4 * len(self.lines):
            dotted = {i for i, _ in found}
            others = [_CONTENTS_BARE.match(line.text) for i, line in enumerate(self.lines) if i not in dotted]
            matches += [m for m in others if m]
        entries = [ContentsLine(m["title"].strip(" ."), m["page"]) for m in matches]
        # The second line of a long title looks like an entry of its own; entries begin with a number or a capital.
        return [e for e in entries if e.title[:1].isdigit() or e.title[:1].isupper()]

    @cached_property
    def is_contents(self) -> bool:
        """Whether the page is mostly a table of contents or an index."""
        numbered = sum(bool(re.search(r"[.,\s]\d{1,4}$", line.text)) for line in self.lines)
        return bool(self.contents) or numbered > 0.5 * max(len(self.lines), 1)

    @cached_property
    def headings(self) -> list[Heading]:
        """Headings in reading order; a heading on several lines is one."""
        # A page without running text is a title page or a figure: its large lines head nothing.
        if self.is_contents or sum(self._is_body(line) for line in self.lines) < 3:
            return []
        found: list[Heading] = []
        i = 0
        while i < len(self.lines):
            line = self.lines[i]
            if not self._is_heading(i):
                i += 1
                continue
            stop = i + 1
            while stop < len(self.lines) and self._continues(self.lines[stop - 1], self.lines[stop]):
                stop += 1
            text = " ".join(part.text for part in self.lines[i:stop])
            number = _NUMBERED.match(text)
            found.append(Heading(text, number[1].rstrip(".:") if number else "", line.size, i, stop))
            i = stop
        return [h for h in found if len(h.text) <= 240]

    def _is_heading(self, index: int) -> bool:
        line = self.lines[index]
        name = _NUMBERED.sub("", line.text)
        letters = sum(c.isalpha() for c in name)
        if line.mono or letters < 3 or letters < 0.5 * len(name.replace(" ", "")) or len(line.text) > 110:
            return False
        if _CAPTION.match(line.text) or line.text[-1] in ",;:" or _CHAPTER.match(line.text):
            return False
        if not (line.text[0].isupper() or _NUMBERED.match(line.text) or line.text[0] in "/\"'“‘("):
            return False
        if line.size >= 1.15 * self.face.body_size:
            return True
        if not line.bold or line.size < self.face.body_size:
            return False
        # Terms, table heads and notes are bold as well, but seldom stand alone at the margin.
        return bool(_NUMBERED.match(line.text)) or (len(line.text) <= 60 and self._stands_alone(index))

    def _stands_alone(self, index: int) -> bool:
        line = self.lines[index]
        above = self.lines[index - 1] if index else None
        below = self.lines[index + 1] if index + 1 < len(self.lines) else None
        if below is None or not 1.3 * line.size < line.bottom - below.bottom < 5 * line.size or below.bold:
            return False
        margin = min((other.left for other in self.lines if self._is_body(other)), default=line.left)
        if line.right - line.left > 0.75 * line.size * len(line.text):
            return False  # wide gaps: the head of a table
        free = above is None or not 0 <= above.bottom - line.bottom < 1.7 * line.size
        return free and line.left < margin + 1.5 * line.size and not line.text.endswith(".")

    @staticmethod
    def _continues(above: Line, line: Line) -> bool:
        same = line.size == above.size and line.bold == above.bold
        near = 0 < above.bottom - line.bottom < 1.6 * line.size
        return same and near and not _NUMBERED.match(line.text) and not _CHAPTER.match(line.text)

    @cached_property
    def captions(self) -> list[Caption]:
        """Captions of figures and tables that stand on one line."""
        matches = [(line, _CAPTION.match(line.text)) for line in self.lines if not _match_contents(line.text)]
        return [
            Caption(f"{m['what']} {m['number']}", m["text"]) for line, m in matches
            if m and len(line.text) < 90 and m["text"][0].isupper() and not re.match(r"(?:The|This|In)\b", m["text"])
        ]

    @cached_property
    def bullets(self) -> list[str]:
        """First lines of the points of bulleted lists."""
        return [line.text for line in self.lines if _BULLET.match(line.text) and not line.mono]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Running text: neighbouring lines of the body's size, without code, headings, captions and points."""
        taken = {i for h in self.headings for i in range(h.start, h.stop)}
        found: list[list[Line]] = []
        for i, line in enumerate(self.lines):
            if i in taken or not self._is_body(line):
                found.append([])
                continue
            if found and found[-1] and self._flows(found[-1][-1], line):
                found[-1].append(line)
            else:
                found.append([line])
        return [" ".join(line.text for line in lines) for lines in found if lines]

    def _is_body(self, line: Line) -> bool:
        marked = _BULLET.match(line.text) or _CAPTION.match(line.text) or _ITEM.match(line.text)
        return not (line.mono or marked or _match_contents(line.text)) and abs(line.size - self.face.body_size) < 0.6

    @staticmethod
    def _flows(above: Line, line: Line) -> bool:
        return 0 < above.bottom - line.bottom < 2.2 * line.size and abs(above.left - line.left) < 4 * line.size

    @cached_property
    def sentences(self) -> list[str]:
        """Whole sentences of the paragraphs that end on this page."""
        return [] if self.is_contents else [s for p in self.paragraphs for s in split_sentences(p)]


_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|c\.f|Mr|Dr|No|Fig|Sec|St|ca|approx|resp)|\b[A-Z])\.$")


def split_sentences(text: str) -> list[str]:
    """Whole sentences: from a capital to a full stop, question or exclamation mark."""
    parts: list[str] = []
    for piece in re.split(r"(?<=[.!?])\s+", text):
        if parts and (_ABBREVIATION.search(parts[-1]) or not (piece[:1].isupper() or piece[:1] in "\"“'‘(")):
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
    return [p for p in parts if p[:1].isupper() and p[-1:] in ".!?" and 20 <= len(p) <= 320]


def unique(values: Iterable[str]) -> list[str]:
    """Values that occur once, case aside, in their order."""
    kept = list(values)
    count = Counter(v.casefold() for v in kept)
    return [v for v in kept if count[v.casefold()] == 1]
