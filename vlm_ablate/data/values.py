"""What a value from a file is: the one place where it becomes a text, a list of texts, pictures, or a turn's content.

Files hold what their writers put there: a number beside texts, one string where others have a list, `None`, a list of
content parts. The rules, for every source and every benchmark:

- a text: itself; whole numbers are written without a fraction (a column with a gap turns 3 into 3.0), other numbers as
  they are; bytes must be UTF-8; None and NaN are absent; a truth value, a date, a list or a mapping is no text, nor is
  what holds half of a surrogate pair, which JSON can write (`"\\ud83d"`) and is no character
- a list of texts: one text is a list of one; absent entries are left out
- answers: as a list of texts, or of mappings with `answer`, or one such mapping (with one answer or a list of them)
- a list of cells (pictures): one cell is a list of one; None keeps its place
- records (turns): a list of mappings, or a mapping of lists of one length, as tables store such lists
- content of a turn: a text, or a list of parts (texts, and pictures where they stand)

Everything else is refused by a `DataError` that names the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from vlm_ablate.errors import DataError

_WHOLE = 1e15
"""Floats below this that are whole are exact as integers."""
_HALF = re.compile("[\ud800-\udfff]")
_PICTURES = ("image", "image_url", "path", "url", "bytes")
"""Keys of a content part under which its picture may stand."""


def absent(value: object) -> bool:
    """Whether there is no value: None, or NaN, which tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: object, field: str) -> str:
    """A text as it stands; "" where it is absent.

    Raises:
        DataError: it is no text and no number, or not all of it is characters; the message names `field`.
    """
    if isinstance(value, str):
        if not value.isascii() and (half := _HALF.search(value)):
            raise DataError(f"{field} holds half of a surrogate pair, {half[0]!r}, which is no character")
        return value
    if absent(value):
        return ""
    if isinstance(value, bytes):
        return decoded(value, field)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        whole = not isinstance(value, float) or (value.is_integer() and abs(value) < _WHOLE)
        return str(int(value)) if whole and not isinstance(value, Decimal) else str(value)
    raise _not(value, field, "a text")


def stripped(value: object, field: str) -> str:
    """A text without blanks around it; "" where it is absent. Raises as `text_of`."""
    return text_of(value, field).strip()


def decoded(data: bytes, field: str, encoding: str = "utf-8") -> str:
    """Bytes as text.

    Raises:
        DataError: they are not in that encoding.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{field} is not {encoding}: byte {data[error.start]:#04x} at {error.start}", hint="set `encoding`"
        ) from None


def texts_of(value: object, field: str) -> list[str]:
    """Texts of a list, absent ones left out; one text is a list of one. Raises as `text_of`."""
    return [text_of(entry, field) for entry in cells_of(value) if not absent(entry)]


def answers_of(value: object, field: str) -> tuple[str, ...]:
    """Annotators' answers in any of the forms above.

    Raises:
        DataError: an answer is no text, or a mapping without `answer`.
    """
    found: list[str] = []
    for entry in cells_of(value):
        if isinstance(entry, Mapping):
            if "answer" not in entry:
                raise DataError(f"{field} has no 'answer' among {', '.join(map(repr, entry)) or 'nothing'}")
            found += texts_of(entry["answer"], field)
        elif not absent(entry):
            found.append(text_of(entry, field))
    return tuple(found)


def cells_of(value: object) -> list[Any]:
    """The entries of a list, None among them; a single text, number, picture or mapping is a list of one."""
    if absent(value):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def records_of(value: object, field: str) -> list[Mapping[str, Any]]:
    """The mappings of a list.

    Raises:
        DataError: an entry is not a mapping, or lists that belong together differ in length.
    """
    if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
        lengths = {key: len(column) for key, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the lists of {field} differ in length: {lengths}")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    found = cells_of(value)
    for entry in found:
        if not isinstance(entry, Mapping):
            raise _not(entry, f"an entry of {field}", "a mapping")
    return found


@dataclass(frozen=True)
class Picture:
    """A picture within a turn."""

    cell: Any = None
    """What holds it; None: the next of the row's own pictures."""


def content_of(value: object, field: str) -> list[str | Picture]:
    """Content of a turn as its texts and pictures in reading order.

    Raises:
        DataError: a part is neither a text nor a picture (sound, video, a tool's call).
    """
    if not isinstance(value, list | tuple):
        return [text] if (text := text_of(value, field)) else []
    found: list[str | Picture] = []
    for part in value:
        found += [_part(part, field)] if isinstance(part, Mapping) else content_of(text_of(part, field), field)
    return found


def _part(part: Mapping[str, Any], field: str) -> str | Picture:
    # Tables give every part every key, with None where the file had none.
    given = {key: value for key, value in part.items() if not absent(value)}
    kind = given.pop("type", "text" if "text" in given else "image" if given.keys() & set(_PICTURES) else None)
    if kind == "text":
        return text_of(given.get("text"), field)
    if kind in ("image", "image_url"):
        cell = next((given[key] for key in _PICTURES if key in given), None)
        return Picture(cell.get("url", cell) if isinstance(cell, Mapping) else cell)
    raise DataError(f"{field} has a part of type {kind!r}; parts are texts and images")


def key_of(*values: object) -> str:
    """Identity made of all values; "" if one is absent: what can be missing is no key."""
    parts = [text_of(value, "a key") for value in values]
    return "/".join(parts) if all(parts) else ""


def _not(value: object, field: str, wanted: str) -> DataError:
    return DataError(f"{field} is {type(value).__name__}, not {wanted}")
