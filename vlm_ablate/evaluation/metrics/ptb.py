"""Tokens of captions, as the COCO caption evaluation makes them: Penn Treebank rules, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer (CoreNLP 3.4.1, Java), which `pycocoevalcap` carries. Where that package and a
Java are installed they are used; else `tokenize` below. A score record says which (`ptb-java`, `ptb-python`).

What the Python rules cover: clitics ('s n't 'll 're 've 'm 'd, can|not, gon|na ..), numbers with signs, separators and
times, hyphens and slashes inside words, dotted abbreviations and the abbreviations that keep their period whatever
follows (`etc.)`), decades (`'70s`), `'n'`, `'em`, `d'you`, `C++`, `C#`, `AT&T`, sums of money and fractions as the
reference writes them (`£5` is `# 5`, `€5` is `$ 5`, `½` is `1/2`), common emoticons, @names, #tags, entities of HTML,
brackets (which become -lrb- and so on, and stay, as in the reference, whose list of dropped tokens has them in
capitals).

Gaps that remain, where the reference does otherwise: marks glued to addresses of the web or of mail, tags of HTML with
attributes, emoticons outside the list, some abbreviations before digits only (`pp.`), soft hyphens and other invisible
marks, emoji of several code points, words joined by full stops and hyphens in turn, what it cannot read and drops.

The version of the tokens in a score record stays 1 although newer rules were added: the records that exist (the
committed results of the laptop scale) are of captions that hold letters, commas and blanks only, which none of the
newer rules touches (a test holds that), so their scores are what these rules give. The next change that could alter
them must count the version up.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WRITTEN = {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
            "&amp;": "&", "&lt;": "<", "&gt;": ">", **_BRACKETS}  # fmt: skip
"""What the reference writes for a token."""
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "."})
# Those that keep their period, found by giving the reference every word of one to four letters and common longer ones.
_ABBREVIATIONS = r"""
    al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd cie
    col cos cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd maj mar
    mfg mme mon mrs mtg neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel thu tue wed
    wis wyo alex ariz assn asst atty bldg blvd brig bros capt cmdr colo conn corp dept elec govs insp intl invt kans
    mich minn mlle mont msgr natl okla penn ppte ppty pres prof ptes ptys reps sens sept supt tenn tues univ wisc
    assoc attys messrs profs thurs calif treas comdr ph\.d
""".split()
_STATES = "Az La Pa Ark Del Ill Ore Tex Mass Miss Wash".split()
"""Abbreviations only with a capital: they are words without."""
_EMOTICON = re.compile(r"[:;=][-o*']?[()dp\[\]]")
_BRACKETED = str.maketrans(_BRACKETS)
_LETTER = r"[^\W\d_½¼¾⅓⅔]"
_TOKEN = re.compile(
    rf"""(?:https?://|www\.)\S+[\w/]                                # web addresses
      | \w+@\w+(?:\.\w+)+                                           # mail addresses
      | &(?:amp|lt|gt);
      | </?[a-z]\w*>                                                # tags
      | [:;=][-o*']?[()DP\[\]](?![\w(])                             # emoticons
      | \^_\^
      | c\+\+ | c\#                                                 # C++
      | \b(?:{_LETTER}\.){{2,}}                                     # u.s. a.m.
      | \b(?:{"|".join(_ABBREVIATIONS)}|(?-i:{"|".join(_STATES)})|{_LETTER})\.(?!-?\w)
      | \b(?:nos?|figs?|pp)\.(?=\s*\d) | \b[^\W_]+\.(?=[,:;])
      | \d+{_LETTER}(?=\.{_LETTER}\.)                               # 5p|.|m.
      | can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | lem(?=me\b) | gim(?=me\b)
      | [^\W_]+(?=n't\b)                                            # ca|n't (the regular expression backs off the n)
      | n't\b
      | '(?:s|m|d|ll|re|ve)\b
      | '(?:\d0s\b|n'|n(?=\s|$)|em\b|cause\b|till?\b) | ol'         # '70s, 'n'
      | 't(?=is\b|was\b)
      | o'[^\W_]{{3,}} | d'(?:oh|you|ye)\b | c'mon\b | ma'am\b      # o'clock
      | y'(?=all\b)
      | [$](?=\d)
      | \d+/\d+(?:-[^\W_]+)+                                        # 3/4-inch
      | (?<![^\W_])[-+]\d+(?:[.,:/]\d+)*(?![^\W_]) | \d+(?:[.,:/]\d+)+ | [.]\d+
      | (?<!\w)[@\#](?={_LETTER})\w+
      | (?-i:[A-Z]+(?:&[A-Z]+)+)\b                                  # AT&T, not r&b
      | [^\W½¼¾⅓⅔]+(?:(?:[-/]|(?<=[^\W\d])\.(?=[^\W\d]))[^\W½¼¾⅓⅔]+)*   # words; black-and-white, and/or
      | \.{{2,}} | -{{2,}} | [!?]{{2,}} | \S""",
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(caption: str) -> list[str]:
    """Tokens of one caption by the Python rules."""
    found = (token.lower() for token in _TOKEN.findall(caption.translate(_PLAIN)))
    tokens = [_WRITTEN.get(t) or (t.translate(_BRACKETED) if _EMOTICON.fullmatch(t) else t) for t in found]
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
