r"""Which lettered choice an answer names: one, or none that can be told. Nothing is guessed.

Forms that are read (B stands for any letter; what is bold, quoted, in backticks, in `$...$`, full-width or in `\text{}`
is read as if it were plain; what stands before a closing `</think>` is not looked at):

| form | read as |
|---|---|
| `B`, `b`, `B.`, `(B)`, `[b]`, `**B**`, `"B"`, `（Ｂ）` | B |
| `B`, line end, reasons; reasons, line end, `B` | B |
| `B. a dog`, `b) a dog`, `B: ..`, `B - ..`, `(B) because ..`, `B, since ..`, `B because ..` | B |
| `answer is B`, `answer would be b.`, `Answer: (B) ..`, `correct option is B`, `B is correct` | B |
| `I choose B`, `答案是B`, `选B` | B |
| `it's B.`, `this is B`, `it must be B`, `so B`, `therefore (B).`, `Ans: B`, ending a clause that denies nothing | B |
| `\boxed{B}`, `\boxed{\text{B: a dog}}`, `<answer>B</answer>` | B |
| `option B`, `choice B`, one letter in brackets anywhere: `a dog (B)` | B |
| `a dog`, `Answer: a dog`, `the answer is a dog because ..`, where that is one choice's text | its letter |

A statement (rows 2, 4, 5, 6, 7) outranks mentions (rows 3, 8): who repeats the list and then says `Answer: B` has
answered. A letter that is denied (`not B`, `option A is wrong`) is not named. A text that is one choice's, word for
word, is that choice (`A dog` where B is "a dog"); a single letter is a letter, also where choices are themselves
letters, for a letter is what the template asks for.

Forms that are unparsed:

| form | why |
|---|---|
| `B, C`, `B and C`, `(A) or (B)`, `B. a dog or C. a bird`, `B. Or is it (C)?`, `B. No, C` | two letters |
| `A. a cat`, line end, `B. a dog`, ..; two statements (`Answer: A .. no, Answer: B`) | two letters |
| `A. a dog` where B is "a dog" | letter and text contradict each other |
| `A man`, `I think`, `the answer is a red car` | an article or a pronoun |
| `U.S.`, `B12`, `B-52`, `AB` | letters of a word |
| `it is a dog`, a text that two choices share, part of a choice's text | words, and no choice's text |
| a letter that is no choice; nothing; a refusal | no choice |

The forms are those that MMMU's evaluation, lmms-eval, VLMEvalKit and sglang look for or were reported to miss
(sgl-project/sglang pull requests 23864 and 24084: 16 points of MMMU between two readings of the same answers).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from vlm_ablate.evaluation.metrics.exact_match import normalise

_MARKS = str.maketrans({"。": ".", "、": ",", "“": '"', "”": '"', "‘": "'", "’": "'", "`": "'", "´": "'"})
_WRAPPED = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|\$)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_LATEX_TEXT = re.compile(r"\\(?:text\w*|math\w+|mbox)\s*\{([^{}]*)\}")
_STATED_WHOLE = re.compile(r"\\f?box(?:ed)?\s*\{([^{}]*)\}|<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LETTER_WRAPPED = re.compile(r"(?<![\w'])(?:[\[{<]([A-Za-z])[\]}>]|\\\(\s*([A-Za-z])\s*\\\))")
_LETTER_QUOTED = re.compile(r"""(?<![\w'])(["'])(\(?[A-Za-z]\)?)(?P<end>[.,]?)\1(?!\w)""")

_LINK = r"(?:is|was|be|as|:|=|->|→)"
_STATEMENT = re.compile(
    # the answer (to ..) is; the correct option is; I would choose; in Chinese "the answer is" and "I choose"
    rf"""\b(?:answer|(?:correct|right|best)\s+(?:option|choice))\b
            (?:\s+(?:to|for|of)\s[^.:\n]{{1,80}}?(?=\s*{_LINK}))?
            [ \t]*(?:(?:would|should|must|will|has\s+to|could)\s+be\b|{_LINK})?[ \t]*(?:{_LINK}[ \t]*)*
            (?:(?:clearly|definitely|probably|therefore|likely|most\s+likely)[ \t]+)?
       | \b(?:I|we)(?:\s+(?:would|will|must)|'d|'ll)?\s+(?:choose|pick|select|go\s+with)\s+
            (?=(?-i:[(A-Z]|option|choice))
       | (?:答案|选项)\s*(?:应该|应当|应)?\s*[是为选:]?\s*:?\s*
       | (?<!可)选择?\s*:?\s*(?=\(?(?-i:[A-Z]))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"(?<![\w'(])\(?([A-Z])\)?\s+is\s+(?:clearly\s+)?(?:the\s+)?(?:correct|right|best\s+(?:answer|option|choice)|answer)\b"
)
_CONCLUDED = re.compile(
    # what is said of the picture, a conclusion, an order; then a capital at the end of a clause, or one of several
    r"""\b(?:(?:it|this|that)(?:'s|\s+is)|(?:must|should|would|has\s+to)\s+be
          |so|therefore|thus|hence|ans|select|pick|choose)
        \s*[.:,]?[ \t]+(?=\(?(?-i:[A-Z])\)?[ \t]*(?:[.!;]|$|(?:or|and)\b))""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_DOUBTED = re.compile(r"\b(?:not|cannot|never|nor|neither|no|hardly|doubt|whether|if|unless)\b|n't\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?;\n]\s")
_NAMED = re.compile(r"(?:(?:the|a)\s+)?(?:letter|option|choice|answer)\s*:?\s*", re.IGNORECASE)
_FIRST = re.compile(r"(?P<open>\(\s*)?(?P<letter>[A-Za-z])(?(open)\s*\)|(?![\w']))")
_MENTION = re.compile(r"\b(?i:option|choice)s?\s+(?=\(?[A-Z])|(?=\([A-Z]\))")
_AND = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|/|&|\+|;|\band\b|\bor\b)\s*(?:(?:option|choice)\s+)?", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:or|no|maybe|perhaps|possibly|actually|rather|alternatively)\b,?\s+(?:\w+\s+){0,3}?(?=\(?[A-Z])",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(r"(?:\bnot|n't|\bneither|\bnor|\bthan|\binstead\s+of|\bexcept|\bexclude|\beliminate)"
                            r"(?:\s+(?:be|the|option|choice|answer))*\s*\(?$", re.IGNORECASE)
_DENIED_AFTER = re.compile(r"\s*(?:is|are|was|were|seems?|looks?)\s+(?:clearly\s+|also\s+)?"
                           r"(?:not|wrong|incorrect|false|untrue|out|ruled)\b|\s*(?:isn't|aren't|can't|cannot)\b",
                           re.IGNORECASE)  # fmt: skip
_NEAR = 40
"""Characters before a letter in which a denial is looked for."""
_REASON = re.compile(r"\s+(?:because|since|as|due|and|or|but|which)\b", re.IGNORECASE)
_END_OF_CLAUSE = re.compile(r"[.;,](?=\s)|\s+(?:because|since|as)\b|\n")


def parse_choice(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer names; None when it names none or more than one.

    Args:
        choices: letter -> text of each choice, where they are known; else empty.
    """
    parser = _Parser(choices)
    found = parser.named(plain(answer), answer)
    return found.pop() if len(found) == 1 and (not choices or found <= choices.keys()) else None


def plain(answer: str) -> str:
    """The answer without marks of Markdown and LaTeX, in narrow letters, `[B]` as `(B)`, boxes as statements."""
    text = unicodedata.normalize("NFKC", answer).translate(_MARKS).rpartition("</think>")[2]
    before = None
    while before != text:
        before = text
        text = _LATEX_TEXT.sub(r"\1", _WRAPPED.sub(r"\2", text))
    text = _STATED_WHOLE.sub(lambda m: f"\nanswer: {(m[1] or m[2] or '').strip()}\n", text)
    text = _LETTER_WRAPPED.sub(lambda m: f"({m[1] or m[2]})", text)
    return _LETTER_QUOTED.sub(r"\2\g<end>", text).strip()


class _Parser:
    """Reads answers to one question."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        self._choices = choices
        self._texts: dict[str, set[str]] = {}
        for letter, text in choices.items():
            for form in (normalise(text), normalise(plain(text))):
                if form:
                    self._texts.setdefault(form, set()).add(letter)

    def named(self, text: str, raw: str) -> set[str]:
        """All letters that an answer names."""
        for form in (raw, text):
            bare = normalise(form)
            if not re.fullmatch(r"\(?[a-z]\)?", bare) and len(letters := self._texts.get(bare, set())) == 1:
                return set(letters)
        stated = self._statements(text)
        return (stated or self._mentions(text)) | self._hedges(text)

    def _statements(self, text: str) -> set[str]:
        """Letters on lines of their own, and of `answer is ..`."""
        found: set[str] = set()
        for line in text.split("\n"):
            if alone := re.fullmatch(r"\s*\(?\s*([A-Za-z])\s*\)?\s*[.,:;)]?\s*", line):
                found.add(alone[1].upper())
        for match in _STATEMENT.finditer(text):
            rest = text[match.end() :].partition("\n")[0]
            # "answer B" needs a capital: "answer a question" states nothing
            linked = not match[0].rstrip()[-1:].isalpha() or match[0].rstrip().lower() != "answer"
            found |= self._by_text(rest, [len(rest)]) or self._at(rest, strict=not linked) or self._by_text(rest)
        for match in _CONCLUDED.finditer(text):
            if not _doubted(text, match.start()):
                found |= self._at(text[match.end() :].partition("\n")[0], strict=True)
        return found | {m[1] for m in _CONFIRMED.finditer(text)}

    def _mentions(self, text: str) -> set[str]:
        """Letters that lines begin with, options by name, letters in brackets, enumerations inside a line."""
        found: set[str] = set()
        for start in (m.start() for m in re.finditer(r"^[ \t>#*-]*", text, re.MULTILINE)):
            line = text[start:].lstrip(" \t>#*-").partition("\n")[0]
            found |= self._at(line, strict=True)
        for match in _MENTION.finditer(text):
            if not self._denied(text, match.start()):
                found |= self._at(text[match.end() :], strict=False)
        for match in re.finditer(r"(?<![\w.(])([A-Z])[.):]\s+", text):
            after = normalise(text[match.end() :])
            own = normalise(self._choices.get(match[1], ""))
            if own and after.startswith(own) and not self._denied(text, match.start()):
                found.add(match[1])
        return found

    @staticmethod
    def _denied(text: str, start: int) -> bool:
        """Whether what begins at `start` stands behind a denial."""
        return _DENIED_BEFORE.search(text[max(0, start - _NEAR) : start]) is not None

    def _hedges(self, text: str) -> set[str]:
        """Letters after `or`, `maybe` and the like."""
        rests = (text[m.end() :] for m in _HEDGE.finditer(text))
        return {letter for rest in rests for letter in self._at(rest, strict=True)}

    def _at(self, text: str, *, strict: bool) -> set[str]:
        """The letters that a text begins with: none, one, or several joined by commas, `and`, `or`.

        Args:
            strict: a letter without brackets must be set off by a mark; after "answer is" it need not be.
        """
        text = text.lstrip()
        if named := _NAMED.match(text):
            text, strict = text[named.end() :], False
        first = _FIRST.match(text)
        if first is None:
            return set()
        letter, rest = first["letter"].upper(), text[first.end() :]
        if not self._is_letter(first, rest, strict) or _DENIED_AFTER.match(rest):
            return set()
        body = _without_mark(rest)
        if normalise(body) and (by_text := self._texts.get(normalise(body))):
            return {letter} if letter in by_text else {letter, *by_text}
        return {letter, *self._joined(rest)}

    def _is_letter(self, first: re.Match[str], rest: str, strict: bool) -> bool:
        """Whether what looks like a letter is one, and no article, pronoun or part of a word."""
        letter = first["letter"]
        if first["open"] is not None or not rest.strip():
            return True
        if re.match(r"[.:),;!](?=\s|$)|,(?=\(?[A-Za-z]\b)|\s*[/&+](?=\s*\(?[A-Z]\b)|\s*[–—]|\s+-|-\s|\"", rest):
            return True
        if _REASON.match(rest):
            return True
        if normalise(rest) and letter.upper() in self._texts.get(normalise(rest), ()):
            return True
        return not strict and letter.isupper() and letter not in "AI" and rest[0].isspace()

    def _joined(self, rest: str) -> Iterator[str]:
        """Letters joined to one that was just read."""
        while (link := _AND.match(rest)) and (other := _FIRST.match(rest, link.end())):
            after = rest[other.end() :]
            loose = other["letter"].isupper() and other["letter"] not in "AI"
            if not (loose or self._is_letter(other, after, True)):
                return
            yield other["letter"].upper()
            rest = after

    def _by_text(self, rest: str, ends: Sequence[int] | None = None) -> set[str]:
        """The choice whose text follows `answer is`, whole or up to the end of a clause (or up to `ends`)."""
        rest = _NAMED.sub("", rest.strip(), count=1) if _NAMED.match(rest.strip()) else rest.strip()
        for end in ends or [m.start() for m in _END_OF_CLAUSE.finditer(rest)]:
            form = normalise(rest[:end].strip(" \"'"))
            if not re.fullmatch(r"\(?[a-z]\)?", form) and len(letters := self._texts.get(form, set())) == 1:
                return set(letters)
        return set()


def _doubted(text: str, start: int) -> bool:
    """Whether a denial or a condition stands before `start` in its sentence."""
    return _DOUBTED.search(_SENTENCE.split(text[:start])[-1]) is not None


def _without_mark(rest: str) -> str:
    """What follows a letter, without the mark that sets it off."""
    return re.sub(r"^\s*[.:),;–—-]*\s*", "", rest)
