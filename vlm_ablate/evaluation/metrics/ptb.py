"""Tokens of captions, as the COCO caption evaluation makes them: Penn Treebank rules, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer (CoreNLP 3.4.1, Java), which `pycocoevalcap` carries. Where that package and a
Java are installed they are used; else `tokenize` below. A score record says which (`ptb-java`, `ptb-python`).

What the Python rules cover: clitics ('s n't 'll 're 've 'm 'd, can|not, gon|na ...), numbers with separators and
times, hyphens and slashes inside words, dotted abbreviations and a list of common ones that keep their period, brackets
(which become -lrb- and so on, and stay, as in the reference, whose list of dropped tokens has them in capitals).
What they do not cover: addresses of the web with unusual characters, emoticons, abbreviations outside the list.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "."})
_ABBREVIATIONS = "mr mrs ms dr st vs inc co ltd jr sr mt ave blvd etc prof gen gov sen rep capt lt col sgt".split()
_TOKEN = re.compile(
    rf"""(?:https?://|www\.)\S+[\w/]                                # web addresses
      | \w+@\w+(?:\.\w+)+                                           # mail addresses
      | (?:[a-z]\.){{2,}}                                           # u.s. a.m.
      | \b(?:{"|".join(_ABBREVIATIONS)})\.(?=\s|$|[,;:])
      | \bno\.(?=\s*\d)
      | can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | lem(?=me\b) | gim(?=me\b)
      | [^\W_]+(?=n't\b)                                            # ca|n't (the regular expression backs off the n)
      | n't\b
      | '(?:s|m|d|ll|re|ve)\b
      | 't(?=is\b|was\b)
      | o'[^\W_]{{3,}}                                                # o'clock
      | y'(?=all\b)
      | \d+(?:[.,:/]\d+)+ | [.]\d+
      | [^\W_]+(?:[-/.&][^\W_]+)*                                   # words; black-and-white, and/or
      | \.{{2,}} | -{{2,}} | [!?]{{2,}} | \S""",
    re.VERBOSE,
)


def tokenize(caption: str) -> list[str]:
    """Tokens of one caption by the Python rules."""
    found = _TOKEN.findall(caption.translate(_PLAIN).lower())
    tokens = (_BRACKETS.get(t, t) for t in found)
    return [t for t in tokens if t not in _DROPPED and t != '"' and set(t) not in ({"."}, {"-"})]


@lru_cache(maxsize=1)
def java_available() -> bool:
    """Whether the reference tokenizer can run: `pycocoevalcap` and a Java are installed."""
    return find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


def tokenize_with_java(captions: Sequence[str]) -> list[list[str]]:
    """Tokens of many captions by the reference tokenizer, in one call of Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # the reference drops empty lines at the end, so each caption is one key and a stop keeps its line alive
    given = {i: [{"caption": " ".join(c.split()) or "."}] for i, c in enumerate(captions)}
    out = PTBTokenizer().tokenize(given)
    return [out[i][0].split() for i in range(len(captions))]
