"""Scripts that set no blanks between words, where a word has no end that a program could see."""

from __future__ import annotations

import re

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Tibetan, Burmese, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Chinese and Japanese
)
"""Ranges for a class of characters in a regular expression."""
_ONE = re.compile(f"[{UNSPACED}]")


def unspaced(character: str) -> bool:
    """Whether a character belongs to such a script."""
    return _ONE.match(character) is not None
