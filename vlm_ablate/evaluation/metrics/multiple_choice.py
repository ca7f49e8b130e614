"""Lettered choices. What cannot be read as one choice is counted as unparsed and scores 0; nothing is ever guessed.

References of an item, in any order:
- bare letters (`B`): the right choices;
- `X. text` for every choice: lets an answer in words be read, and bounds the letters;
- no bare letter at all: an open question. A number is right when it equals the reference at the reference's own
  decimals, a text when it matches as in `exact_match`; an empty answer is unparsed.

Which forms of an answer name a choice, and which are unparsed, is the table in `choice_parser`. Source of the need:
MMMU's evaluation picks a random choice when parsing fails (https://github.com/MMMU-Benchmark/MMMU,
mmmu/utils/eval_utils.py), which moves scores by points.

Version 2: reads Markdown, LaTeX, letters on lines of their own and small letters after "answer is"; two letters named
are unparsed; a single letter is a letter also where choices' texts are letters. Version 3: a reference with a percent
sign or a power of ten is held to what its last decimal is worth (`12.5%` took any answer within 5 points before).
Version 4: reads a letter that ends a clause after `it's`, `so` and the like, and Chinese full stops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references
from vlm_ablate.evaluation.metrics.choice_parser import parse_choice
from vlm_ablate.evaluation.metrics.exact_match import normalise
from vlm_ablate.evaluation.metrics.numbers import last_place, parse_number

_CHOICE = re.compile(r"([A-Z])\. (.*)", re.DOTALL)


def split_references(references: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """Right letters, and letter -> text of the choices.

    Raises:
        DataError: a right letter is not among the choices.
    """
    letters = {r.strip() for r in references if re.fullmatch(r"[A-Z]", r.strip())}
    choices = {m[1]: m[2] for m in map(_CHOICE.fullmatch, references) if m} if letters else {}
    if choices and not letters <= choices.keys():
        raise DataError(f"multiple_choice: right letter {sorted(letters - choices.keys())} is not among the choices")
    return letters, choices


def open_answer(prediction: str, references: Sequence[str]) -> bool:
    """Whether an open answer equals a reference, numbers at the reference's decimals."""
    for reference in references:
        gold, given = parse_number(reference), parse_number(prediction)
        if gold is not None and given is not None:
            if given == gold or abs(given - gold) * 2 < last_place(reference):
                return True
        elif normalise(reference) == normalise(prediction):
            return True
    return False


class MultipleChoice(Metric):
    """The right letter, read strictly; unreadable answers are counted, never guessed."""

    name = "multiple_choice"
    version = "4"
    summary = "the right letter; unreadable answers are counted as unparsed and score 0"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """0, 1, or None if unparsed. Raises DataError without references."""
        check_references(references, self.name)
        letters, choices = split_references(references)
        if not letters:
            return ItemScore(float(open_answer(prediction, references)) if prediction.strip() else None)
        given = parse_choice(prediction, choices)
        return ItemScore(None if given is None else float(given in letters))
