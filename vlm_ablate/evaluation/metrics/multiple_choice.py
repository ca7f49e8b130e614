"""Lettered choices. What cannot be read as one choice is counted as unparsed and scores 0; nothing is ever guessed.

References of an item, in any order:
- bare letters (`B`): the right choices;
- `X. text` for every choice: lets an answer in words be read, and bounds the letters;
- no bare letter at all: an open question. A number is right when it equals the reference at the reference's own
  decimals, a text when it matches as in `exact_match`; an empty answer is unparsed.

An answer names a choice, in this order of precedence: it equals one choice's text; it is a letter alone or begins with
a letter set off by `.`, `)`, `:` or `,`; it says `answer is B`, `answer: B`, `option B`, `choice B`; it has exactly one
letter in brackets. If a rule finds two different letters the answer is unparsed. A leading `A` or `I` in a sentence
(`A man`) names nothing. Source of the need: MMMU's evaluation picks a random choice when parsing fails
(https://github.com/MMMU-Benchmark/MMMU, mmmu/utils/eval_utils.py), which moves scores by points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references
from vlm_ablate.evaluation.metrics.exact_match import normalise
from vlm_ablate.evaluation.metrics.numbers import decimal_places, parse_number

_CHOICE = re.compile(r"([A-Z])\. (.*)", re.DOTALL)
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?\s*[.,:]?")
_LEADING = re.compile(r"[(\[]([A-Z])[)\]]|([A-Z])\s*[.):,](?!\S*[.])")
_SAID = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:)?\s*:?\s*(?:option\s+|choice\s+)?[(\[*]*([A-Z])(?![A-Za-z'’])", re.IGNORECASE
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")


def split_references(references: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """Right letters, and letter -> normalised text of the choices.

    Raises:
        DataError: a right letter is not among the choices.
    """
    letters = {r.strip() for r in references if re.fullmatch(r"[A-Z]", r.strip())}
    choices = {m[1]: normalise(m[2]) for m in map(_CHOICE.fullmatch, references) if m} if letters else {}
    if choices and not letters <= choices.keys():
        raise DataError(f"multiple_choice: right letter {sorted(letters - choices.keys())} is not among the choices")
    return letters, choices


def parse_choice(answer: str, choices: dict[str, str]) -> str | None:
    """The letter that an answer names; None when it names none or more than one."""
    text = answer.strip()
    by_text = {letter for letter, choice in choices.items() if choice and choice == normalise(text)}
    if len(by_text) == 1:
        return by_text.pop()
    if alone := _ALONE.fullmatch(text):
        found = {alone[1].upper()}
    else:
        found = set()
        if leading := _LEADING.match(text):
            found = {leading[1] or leading[2]}
        # "B. Or is it (C)?" names two
        found |= {m[1] for m in _SAID.finditer(text) if m[1].isupper()} | {m[1] for m in _BRACKETED.finditer(text)}
    if len(found) != 1 or (choices and not found <= choices.keys()):
        return None
    return found.pop()


def open_answer(prediction: str, references: Sequence[str]) -> bool:
    """Whether an open answer equals a reference, numbers at the reference's decimals."""
    for reference in references:
        gold, given = parse_number(reference), parse_number(prediction)
        if gold is not None and given is not None:
            unit = Fraction(1, 10 ** decimal_places(reference))
            if abs(given - gold) * 2 < unit if unit < 1 else given == gold:
                return True
        elif normalise(reference) == normalise(prediction):
            return True
    return False


class MultipleChoice(Metric):
    """The right letter, read strictly; unreadable answers are counted, never guessed."""

    name = "multiple_choice"
    version = "1"
    summary = "the right letter; unreadable answers are counted as unparsed and score 0"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """0, 1, or None if unparsed. Raises DataError without references."""
        check_references(references, self.name)
        letters, choices = split_references(references)
        if not letters:
            return ItemScore(float(open_answer(prediction, references)) if prediction.strip() else None)
        given = parse_choice(prediction, choices)
        return ItemScore(None if given is None else float(given in letters))
