"""Numbers as people and programs write them: 1,000; 3.2e-4; 3.2 x 10^-4; 3.2×10⁻⁴; 10^5; １２."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

# Of a number that is read: more digits, and larger exponents, are no answers that people give.
MAX_CHARS, MAX_EXPONENT = 200, 400
# Two numbers that are not both whole are equal to so many digits behind the point, as math-verify
# has it; where they are small, to this share of the larger.
DECIMALS, SMALL = Fraction(1, 2_000_000), Fraction(1, 10_000)

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_MINUSES = str.maketrans("−‐‑–", "----")
_TIMES = r"\s?(?:[x×*·⋅]|\\times\b|\\cdot\b)\s?"
_TEN_TO = r"10\s?(?:\^|\*\*)\s?(?:\{\s?(?P<braced>[-+]?\d{1,4})\s?\}|\(?(?P<power>[-+]?\d{1,4})\)?)"
_GROUP = "[,\u00a0\u2009\u202f]"
NUMERAL = (
    rf"(?P<number>[-+]?(?:\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|[-+]?\.\d+)"
    rf"(?:[eE](?P<e>[-+]?\d{{1,4}})|{_TIMES}{_TEN_TO})?"
)
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_WHOLE = re.compile(NUMERAL)
_TEN = re.compile(rf"(?P<sign>[-+]?){_TEN_TO}")


class Numeral(NamedTuple):
    """A number that was read."""

    value: Fraction


def plain_digits(text: str) -> str:
    """`text` with every script's digits as 0 to 9, superscripts as powers, and one minus sign."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda raised: "^" + raised.group().translate(_SUPERSCRIPTS), text)
    digits = (unicodedata.decimal(c, None) for c in text)
    text = "".join(c if d is None else str(d) for c, d in zip(text, digits, strict=True))
    return text.translate(_MINUSES).replace("．", ".").replace("，", ",")


def numeral(text: str) -> Numeral | None:
    """The number that `text` is, in any of the notations; None if it is anything else."""
    if len(text) > MAX_CHARS:
        return None
    text = plain_digits(text.strip()).replace("{,}", ",")
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if found := _TEN.fullmatch(text):
        return _scaled("-1" if found["sign"] == "-" else "1", found["braced"] or found["power"])
    found = _WHOLE.fullmatch(text)
    if not found:
        return None
    number = re.sub(_GROUP, "", found["number"])
    return _scaled(number, found["e"] or found["braced"] or found["power"] or "0")


def same_number(first: Numeral, second: Numeral) -> bool:
    """Whether two numbers are the same: exactly where both are whole, else to six decimals.

    Of small numbers the first four digits count: 3.2e-7 is not 3.3e-7.
    """
    a, b = first.value, second.value
    if a.denominator == b.denominator == 1:
        return a == b
    return abs(a - b) <= min(DECIMALS, SMALL * max(abs(a), abs(b)))


def _scaled(number: str, exponent: str) -> Numeral | None:
    power = int(exponent)
    if abs(power) > MAX_EXPONENT:
        return None
    return Numeral(Fraction(number) * Fraction(10) ** power)
