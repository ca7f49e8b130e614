"""Cells of CSV files that people open in a spreadsheet: a text there is a text, never a formula."""

from __future__ import annotations

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_cell(value: object) -> object:
    """The value as a cell: a text that a spreadsheet would compute gets an apostrophe in front; numbers stay numbers.

    `=HYPERLINK(...)` -> `'=HYPERLINK(...)`; `-3.5` stays. Spreadsheets skip blanks at the start, so they do not count.
    """
    if not isinstance(value, str) or not value.lstrip(" ").startswith(_STARTS_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
