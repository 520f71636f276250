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


FRACTIONS = {  # "½" as ("1", "2")
    sign: tuple(unicodedata.normalize("NFKC", sign).split("\u2044"))
    for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
_TO_TWELVE = "zero one two three four five six seven eight nine ten eleven twelve"
NUMERALS = {word: str(number) for number, word in enumerate(_TO_TWELVE.split())}
_UNITS = _TO_TWELVE.split()[1:10]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SPELLED = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_UNITS)}))?|({'|'.join(_TEENS)}))\b",
    re.IGNORECASE,
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(
    rf"(?<![\w.,])(?P<value>{NUMERAL})\s?(?:\\(?:text|mathrm)\s?\{{\s?)?"
    rf"(?P<scale>{'|'.join(_SCALES)})s?\b\}}?",
    re.IGNORECASE,
)


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


def number_words_as_digits(text: str) -> str:
    """`text` with 13 to 99 in digits where they are spelled out: "twenty-five" is "25"."""

    def digits(found: re.Match[str]) -> str:
        tens, unit, teen = (word and word.lower() for word in found.groups())
        if teen:
            return str(13 + _TEENS.index(teen))
        return str(20 + 10 * _TENS.index(tens) + (1 + _UNITS.index(unit) if unit else 0))

    return _SPELLED.sub(digits, text)


def scales_as_digits(text: str) -> str:
    """`text` with "1.5 million" as "1500000"."""

    def digits(found: re.Match[str]) -> str:
        number = numeral(found["value"])
        if number is None:
            return found[0]
        value = number.value * 10 ** _SCALES[found["scale"].lower()]
        return str(value.numerator) if value.denominator == 1 else found[0]

    return _SCALED.sub(digits, text)


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
