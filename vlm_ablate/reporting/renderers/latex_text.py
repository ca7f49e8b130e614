r"""Text made literal for LaTeX: no character acts, and none stops pdfLaTeX with its usual fonts (OT1 or T1, UTF-8).

- What acts is escaped. A `[` or `*` that a text begins with stands in braces: in a table's row it would be taken for an
  argument of the `\\` or `\midrule` before it. Two marks that would be drawn as one other (`--`) are kept apart.
- Greek letters and signs of mathematics are set in mathematics; accents on letters as accents.
- Any other character that the fonts may lack (Chinese, emoji) stands as its code, `U+4E2D`; `lacking` lists them.
"""

from __future__ import annotations

import unicodedata

from vlm_ablate.reporting.grid import MARK

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", MARK: r"$^\dagger$",
}  # fmt: skip
_SIGNS = {
    "±": r"\pm", "−": "-", "→": r"\to", "←": r"\leftarrow", "↑": r"\uparrow", "↓": r"\downarrow",
    "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "×": r"\times", "÷": r"\div", "·": r"\cdot", "∙": r"\cdot",
    "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "≈": r"\approx", "∼": r"\sim", "≪": r"\ll", "≫": r"\gg",
    "∞": r"\infty", "∑": r"\sum", "∏": r"\prod", "√": r"\surd", "∂": r"\partial", "∈": r"\in", "∝": r"\propto",
    "∆": r"\Delta", "µ": r"\mu", "°": r"^\circ", "‰": r"^0/_{00}", "✓": r"\surd", "✔": r"\surd", "✗": r"\times",
    "✘": r"\times", "★": r"\star", "☆": r"\star", "•": r"\bullet", "¹": "^1", "²": "^2", "³": "^3", "⁰": "^0",
    "⁴": "^4", "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "¬": r"\neg", "ς": r"\varsigma",
}  # fmt: skip
_WORDS = {
    "–": "--", "—": "---", "‐": "-", "‑": "-", "“": "``", "”": "''", "„": ",,", "‘": "`", "’": "'", "…": r"\dots{}",
    "€": r"\texteuro{}", "£": r"\pounds{}", "§": r"\S{}", "¶": r"\P{}", "©": r"\copyright{}", "®": r"\textregistered{}",
    "™": r"\texttrademark{}", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "¡": "!`", "¿": "?`",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⁄": "/",
}  # fmt: skip
_GREEK = {
    chr(code): name.rpartition(" ")[2].lower()
    for code in range(0x391, 0x3CA)
    if (name := unicodedata.name(chr(code), "")) and "LETTER" in name and "FINAL" not in name and "WITH" not in name
}
_LATIN_SHAPED = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True)) | {"Υ": r"\Upsilon"}
_GREEK_NAMES = {"lamda": "lambda", "omicron": "o"}
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u0327": "c",
    "\u030c": "v", "\u0306": "u", "\u030b": "H", "\u0307": ".", "\u0304": "=", "\u0323": "d", "\u0331": "b",
}  # fmt: skip
_RUNS = "-'`,"
"""Marks of which two in a row would be drawn as one other."""


def escape(text: str) -> str:
    """Text made literal; line ends and runs of blanks are one blank."""
    parts, before = [], ""
    for character in " ".join(_composed(text).split()):
        runs = (character == before and character in _RUNS) or (character == "`" and before in ("?", "!"))
        parts.append(("{}" if runs else "") + _set(character))
        before = character
    if parts and parts[0] in ("[", "*"):
        parts[0] = f"{{{parts[0]}}}"
    return "".join(parts)


def lacking(text: str) -> list[str]:
    """Characters that stand as their codes, with their names, in order of appearance."""
    found = dict.fromkeys(c for c in _composed(text) if not c.isspace() and _set(c) == _code(c))
    return [f"{_code(c)} {unicodedata.name(c, 'without a name')}" for c in found]


def _composed(text: str) -> str:
    """With each letter and its accents as one character, which some systems write apart in names of files."""
    return unicodedata.normalize("NFC", text)


def _set(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return character if character.isprintable() else _code(character)
    if character in _SIGNS:
        return f"${_SIGNS[character]}$"
    if character in _WORDS:
        return _WORDS[character]
    if character in _GREEK:
        return f"${_greek(character)}$"
    return _accented(character) or _compatible(character) or _code(character)


def _greek(character: str) -> str:
    if character in _LATIN_SHAPED:
        return _LATIN_SHAPED[character]
    name = _GREEK_NAMES.get(_GREEK[character], _GREEK[character])
    return "\\" + (name.capitalize() if character.isupper() else name)


def _accented(character: str) -> str:
    """A Latin letter with its accents, e.g. `\\'{e}`; "" for what is none."""
    base, *marks = list(unicodedata.normalize("NFD", character))
    if not (base.isascii() and base.isalpha() and marks and all(mark in _ACCENTS for mark in marks)):
        return ""
    for mark in marks:
        base = f"\\{_ACCENTS[mark]}{{{base}}}"
    return base


def _compatible(character: str) -> str:
    """What Unicode gives as the plain form, where it is ASCII: full-width letters, ligatures, invisible marks."""
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return "{}"
    plain = unicodedata.normalize("NFKC", character)
    return "".join(map(_set, plain)) if plain.isascii() else ""


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
