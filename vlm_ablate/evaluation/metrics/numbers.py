"""Reading the numbers that answers contain, exactly (as fractions), and nothing that only looks like one."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_NUMBER = re.compile(
    r"""(?P<sign>[+-]?)\s*
        (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)   # thousands separators only where they belong
        (?P<decimals>\.[0-9]*)?
        (?P<exponent>[eE][+-]?[0-9]{1,3})?
        \s*(?P<percent>%?)\.?""",
    re.VERBOSE,
)


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else; None for all other texts.

    Read are signs (also U+2212), thousands separators, decimals, exponents up to three digits, a closing period, and a
    percent sign: `5%` is 0.05. Not read are `nan`, `inf`, `1_000`, `1,23`, units and currencies.
    """
    match = _NUMBER.fullmatch(text.strip().replace("\u2212", "-"))
    if match is None:
        return None
    whole, decimals = match["whole"].replace(",", ""), (match["decimals"] or ".")[1:]
    if not whole and not decimals:
        return None
    exponent = int((match["exponent"] or "e0")[1:]) - len(decimals)
    # Not int(): Python refuses to read more than 4,300 digits, and a model that repeats one digit writes them.
    value = Fraction(Decimal(whole + decimals)) * Fraction(10) ** exponent
    value = -value if match["sign"] == "-" else value
    return value / 100 if match["percent"] else value


def last_place(text: str) -> Fraction:
    """What one in the last place after the decimal point of a number is worth: of `3.14` 0.01, of `12.5%` 0.001, of
    `1.5e-3` 0.0001. Never more than the places alone say (`1.5e3`: 0.1); 0 where none are written, or no number is.
    """
    match = _NUMBER.fullmatch(text.strip().replace("\u2212", "-"))
    places = len((match["decimals"] or ".")[1:]) if match else 0
    if match is None or not places:
        return Fraction(0)
    power = int((match["exponent"] or "e0")[1:]) - (2 if match["percent"] else 0)
    return Fraction(10) ** (min(power, 0) - places)
