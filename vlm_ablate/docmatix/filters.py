"""Which pairs are dropped, and why. Docmatix dropped 15 % of its model's pairs: code and "unanswerable".

Here an answer must also stand on the pages: as written, or, for a model's own words, most of its content words and
every number.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from vlm_ablate.docmatix.pair import PageRow, Pair
from vlm_ablate.pdf.scripts import UNSPACED, unspaced

UNANSWERABLE = "unanswerable"
CODE = "code"
NOT_FOUND = "answer not on the pages"
DUPLICATE = "duplicate"
EMPTY = "empty"
BROKEN = "broken text"
GIVEN_AWAY = "answer in the question"
LONG = "too long"

MAX_CHARACTERS = 1500
_SAYS = r"(?:mention|specify|state|provide|contain|say|indicate|give|discuss|describe)"
_UNANSWERABLE = re.compile(
    r"\bunanswerable\b|\bnot (?:be )?answer(?:able|ed)\b|\bcan(?:not|'t| not) (?:be )?(?:answer|determine)(?:ed|d)?\b|"
    r"\b(?:is|are|was|were)(?: not|n't) (?:\w+ )?(?:mentioned|specified|stated|provided|given|indicated|clear) "
    r"(?:in|on|by|from) (?:the|this) (?:text|document|pages?|pdf|passage|excerpt)\b|"
    rf"\b(?:the|this) (?:text|document|page|pdf|passage|excerpt) does(?: not|n't) (?:\w+ )?{_SAYS}\b|"
    r"\b(?:no|not enough|insufficient) (?:information|context|details?) "
    r"(?:is|are|in|on|about|to|was|were|provided|given)\b|"
    r"\bas an ai\b|\bi (?:cannot|can't|am unable|don't know)\b",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"```|^\s*(?:#include|import [\w.]+(?:\.\w+|\s+as\s+\w+|\s*;)|from [\w.]+ import|def \w+\(|"
    r"class \w+(?:\([^)]*\))?:\s*$|return(?:\s+\S+)?\s*;|#!/)|^import \w+\s+(?:import|from) \w+|"
    r"\b(?:function|void|int|char|public|private|static)\s+\*?\w+\s*\([^)]*\)\s*\{|</?\w+(?:\s+\w+=\"[^\"]*\")*\s*/?>\s*\w*</|"
    # A price is no variable ("$500/hour"), and a sign before a number no prompt ("$ 1,250", "# 42", "> 5 %").
    r"[{}]\s*$|[)\]=]\s*;\s*$|=\s*\S+;\s*$|\$(?:\{\w+\}|[A-Za-z_]\w*)\s*[=;/]|\w+\([^)]*\)\s*;|&&|\|\||==|!=|->|::|"
    r"\+=|:=|^\s*\$\s+[a-z./~]|^\s*[#%]\s+[a-z][\w.-]*\s+(?:-|install\b|\S*/)|^\s*>>>\s|"
    r"(?:^|\s)--?[a-z][\w-]*(?:[= ]\S+)?\s+--?[a-z]|\bsudo \w|\\(?:begin|end|frac|n\b)",
    re.MULTILINE,
)
_LOOSE_ACCENT = re.compile(
    r"[A-Za-z][¨´ˆ˜¸`][A-Za-z]|[¨´ˆ˜¸][a-z]|(?:^|\s)[\u0300-\u036f]|�|[\ue000-\uf8ff]|\(cid:\d+\)"
)
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_STOP = frozenset(
    "a an and any are as at be been being but by can could did do does each for from had has have he her his how i if "
    "in into is it its may might more most must no not of on or other our shall she should so some such than that the "
    "their them then there these they this those to under up was we were what when where which while who whom whose "
    "why will with would you your according document text page pages section sections include includes including "
    "mentioned stated also yes".split()
)
_QUOTES = str.maketrans("’‘“”–—−…", "''\"\"---.")


@dataclass
class Sieve:
    """Filters the pairs of one PDF: duplicates are those of the whole PDF.

    Args:
        support: share of an answer's content words that must stand on the row's pages.
    """

    support: float = 0.75
    dropped: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def keep(self, row: PageRow, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs that pass, in their order; the others are counted."""
        kept: list[Pair] = []
        asked: set[str] = set()
        for pair in pairs:
            question = plain(pair.question)
            reason = self.reason(row, pair)
            if reason is None and (question in asked or (question, plain(pair.answer)) in self._seen):
                reason = DUPLICATE
            if reason:
                self.dropped[reason] += 1
                continue
            asked.add(question)
            self._seen.add((question, plain(pair.answer)))
            kept.append(pair)
        return kept

    def reason(self, row: PageRow, pair: Pair) -> str | None:
        """Why a pair is dropped, duplicates aside; None: it is kept."""
        question, answer = pair.question.strip(), pair.answer.strip()
        if _length(question) < 8 or not re.search(r"\w", answer):
            return EMPTY
        if _UNANSWERABLE.search(answer) or _UNANSWERABLE.search(question):
            return UNANSWERABLE
        if _CODE.search(answer) or _CODE.search(question):
            return CODE
        if _LOOSE_ACCENT.search(question + answer):
            return BROKEN
        if len(question) + len(answer) > MAX_CHARACTERS:
            return LONG
        if _given_away(plain(question), plain(answer)):
            return GIVEN_AWAY
        wanted = pair.evidence or (answer,)
        return None if all(self.stands_on(row, text) for text in wanted) else NOT_FOUND

    def stands_on(self, row: PageRow, answer: str) -> bool:
        """Whether the pages say this: as written, or in most of its content words and all of its numbers."""
        text, words = _of_row(row.text)
        wanted = plain(answer)
        if wanted and re.search(_whole(wanted), text):
            return True
        found = _words(wanted)
        if any(w[0].isdigit() and w not in words for w in found):
            return False
        content = [w for w in found if w not in _STOP and not w[0].isdigit()]
        # A short answer is a fact: it has no words of its own.
        if len(content) < 3:
            return bool(content) and all(_has(w, words) for w in content)
        return sum(_has(w, words) for w in content) >= self.support * len(content)


def _has(word: str, words: frozenset[str]) -> bool:
    """Whether a word, or another form of it, is among `words`."""
    if word in words or (_HANGUL.match(word) and len(word) > 1 and any(w.startswith(word) for w in words)):
        return True
    for ending in ("s", "es", "ed", "d", "ing", "ly"):
        if word + ending in words or (word.endswith(ending) and word[: -len(ending)] in words):
            return True
    return False


def _given_away(question: str, answer: str) -> bool:
    """A long answer that the question holds already; short ones ("3") occur in questions by chance."""
    return len(answer) > 12 and answer in question


def plain(text: str) -> str:
    """Text for comparison: case, quotes, dashes, blanks and outer punctuation aside."""
    folded = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    # Where a script sets no blanks, one is the end of a printed line.
    joined = re.sub(rf"(?<=[{UNSPACED}])\s+(?=[{UNSPACED}])", "", folded)
    return re.sub(r"\s+", " ", joined).strip(" .,;:!?\"'。、")


def _whole(wanted: str) -> str:
    """A pattern that finds a text where it is not part of a longer word.

    Words of scripts without blanks have no ends to look for, and Korean sets particles behind its words.
    """
    letter = rf"[^\W{UNSPACED}]"
    before = "" if unspaced(wanted[0]) else rf"(?<!{letter})"
    after = "" if unspaced(wanted[-1]) or _HANGUL.match(wanted[-1]) else rf"(?!{letter})"
    return f"{before}{re.escape(wanted)}{after}"


def _words(text: str) -> list[str]:
    """Words and numbers of a folded text; of scripts without blanks, each two neighbouring characters."""
    found: list[str] = []
    for word in _WORD.findall(text):
        for run in re.findall(rf"[{UNSPACED}]+|[^{UNSPACED}]+", word):
            pairs = [run[i : i + 2] for i in range(len(run) - 1)] if unspaced(run[0]) else []
            found += pairs or [run]
    return found


def _length(text: str) -> int:
    """Letters of a text, a character of a script without blanks counting as three."""
    return sum(3 if unspaced(character) else 1 for character in text)


@lru_cache(maxsize=8)
def _of_row(text: str) -> tuple[str, frozenset[str]]:
    folded = plain(text)
    return folded, frozenset(_words(folded))
