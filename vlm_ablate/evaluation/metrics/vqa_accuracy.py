"""VQA accuracy, as the evaluation code of the VQA data set computes it.

Source: https://github.com/GT-Vision-Lab/VQA, PythonEvaluationTools (v2.0), and https://visualqa.org/evaluation.html.

An answer is worth min(1, n/3), n being the annotators who gave it; this is averaged over all leave-one-out subsets of
the (10) annotators. Line ends and tabs become blanks and both ends are stripped. Then, **only when the annotators do
not all agree**, prediction and references are processed: punctuation, lower case, number words, articles, contractions.
So `Yes.` against ten times `yes` scores 0 there, and here.

Rules of the processing, including those that the web page does not tell:
- a punctuation mark is removed where the text has it beside a blank, or where the text has a comma between digits
  anywhere; else it becomes a blank. Apostrophes and colons stay.
- a period goes unless a digit follows; at most 32 a text (the original passes a regular-expression flag as the count).
- `none` is 0, `zero`..`ten` are digits; `a`, `an`, `the` are dropped.
- a contraction with one apostrophe missing gets it back; `somebody'd` loses its own.

References other than 10: more or exactly 10 are used as they are. Fewer than 10 cannot reach "3 others agree" fairly,
so each counts as 10/n annotators (5 references count double, which is OKVQA's own rule; 1 reference is right or wrong):
with v = 10 m/n votes for the answer, (v min(1, (v-1)/3) + (10-v) min(1, v/3)) / 10. At n = 10 it is the original.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, check_references

_PANEL = 10
_PUNCTUATION = ";/[]\"{}()=+\\_-><@`,?!"
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
_NUMBERS = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS["none"] = "0"
_ARTICLES = frozenset({"a", "an", "the"})

# Each is reached from its spellings with exactly one apostrophe missing. Left out, as in the original, are those
# whose bare spelling is another word (he'll, she'd, we'll, i'll, it's, ...).
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()


def _apostrophes() -> dict[str, str]:
    table = {
        word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, char in enumerate(word) if char == "'"
    }
    return {**table, "somebody'd": "somebodyd"}


_APOSTROPHES = _apostrophes()


def strip_answer(text: str) -> str:
    """Line ends and tabs as blanks, no blanks at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    out, numbers = text, _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_blank or numbers else " ")
    return _PERIOD.sub("", out, count=_MAX_PERIODS)


@lru_cache(maxsize=65536)
def process_answer(text: str) -> str:
    """Punctuation, lower case, number words, articles and contractions, in the original's order."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


class VqaAccuracy(Metric):
    """VQA accuracy: leave-one-out average of min(1, n/3) over the annotators' answers."""

    name = "vqa_accuracy"
    version = "1"
    summary = "min(1, agreeing annotators / 3), leave-one-out over 10 (official VQA evaluation)"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        """Accuracy in 0..1. Raises DataError without references."""
        check_references(references, self.name)
        answers, given = [strip_answer(r) for r in references], strip_answer(prediction)
        if len(set(answers)) > 1:
            answers, given = [process_answer(a) for a in answers], process_answer(given)
        panel = max(_PANEL, len(answers))
        votes = answers.count(given) * panel / len(answers)
        if not votes:
            return ItemScore(0.0)
        agreeing = votes * min(1.0, max(0.0, votes - 1.0) / 3.0)
        others = (panel - votes) * min(1.0, votes / 3.0)
        return ItemScore((agreeing + others) / panel)
