"""Sentences of people as plain ASCII, and what makes one a caption."""

from __future__ import annotations

import re

from vlm_ablate.offline.facts import ascii_fold

LONGEST = 20
"""Words; longer texts tell of more than the picture."""

_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "`": "'", "—": ", ", "–": ", ", "…": " "})
_END = re.compile(r"[.!?]+(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:St|Mr|Mrs|Dr|Jr|No)\.$")


def plain(text: str) -> str:
    """ASCII on one line: typographic quotes and dashes become plain ones, accents go."""
    return re.sub(r"\s+([,\s])", r"\1", ascii_fold(text.translate(_QUOTES))).replace("\n", " ").strip(" ,")


def first_sentence(text: str) -> str:
    """The first sentence, without its final stop."""
    for end in _END.finditer(text):
        if not _ABBREVIATION.search(text[: end.end()]):
            return text[: end.start()].strip()
    return text.strip()


def as_caption(text: str) -> str:
    """As captions are answered here: in lower case, without a final stop."""
    return text.lower().rstrip(" .!?,;:")
