"""MMVU answers by rule: multiple choice by letter, open questions by equal text or equal number.

The official evaluation of MMVU asks a language model to judge every answer. For open questions no
rule replaces it, since synonyms and paraphrases are right answers too; the rule below is kept
conservative, so that only what it rejects is in need of a judge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from caprl_native.text.plain_text import bounded
from eval.scoring.cues import is_bound, is_denied
from eval.scoring.letters import choice_letter
from eval.scoring.numerals import NUMERALS, plain_digits
from eval.scoring.words import (
    ARTICLES,
    MAX_CHARS,
    answer_parts,
    cleaned,
    content_stems,
    words,
)

# "9.8" for 9.81 and "3.14159" for 3.14 are right, "5.02" for 5 is not. Whole numbers, which are
# counts and years, must be equal.
TOLERANCE = 0.0025

_STATED = re.compile(r"\banswer(?:\s+(?:is|would be|should be)\b|\s*[:=])[\s:]*", re.IGNORECASE)
_AROUND_OPERATOR = re.compile(r"\s*([=^/+<>(){}\[\]])\s*")
_ARTICLE = re.compile(r"\b(?:an?|the)\s+(?=\w)")
_NUMERAL = re.compile(rf"\b(?:{'|'.join(NUMERALS)})\b")

_MINUS = re.compile(r"(?<![\w)] )(?<![\w)])(?:\b(?:minus|negative) |- )(?=\d)")
_PERCENT = re.compile(r"\s*(?:\bper ?cent\b|%)")
_BRACED_POWER = re.compile(r"\^\{(-?\w+)\}")
_SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:[×x*·]|\\times|\\cdot)\s*10\^(-?\d+)")
_FRAC = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_FRACTION = re.compile(r"(?<![\w./^])(\d{1,9})[/\u2044](\d{1,9})(?![\w./\u2044])")
_REPEATED = re.compile(r"(\d+) ?\(\1\)")  # "5 (five)", with numerals in digits
_ORDINALS = {"1st": "first", "2nd": "second", "3rd": "third", "4th": "fourth", "5th": "fifth"}
_ORDINAL = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b")

# Its acronym, or a formula: "Depth-First Search (DFS)", "Sodium chloride (NaCl)".
_ACRONYM = re.compile(r"\s*\(((?:[A-Z][a-z]?\d*){2,})\)")
_ASSIGNED = re.compile(r"([a-z]\w?)=(?=.)")
_OF = re.compile(r"\bof\b")
_LINKS = ARTICLES | {"of"}
# Formulas, and words around which "X to Y" is not "Y to X".
_ORDERED = re.compile(
    r"[\d=^/+<>(){}\[\]-]|\b(?:to|from|by|than|before|after|in|on|over|under|with|per|and)\b"
)
_FORMULA = re.compile(r"[=^/+<>(){}\[\]]")
_ALTERNATIVES = re.compile(r"\b(?:or|either)\b")
_NUMBER = re.compile(
    r"(?<![\w.^])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?(?![.,:]?\d|\^)"
)


class Quantity(NamedTuple):
    """A number and what stands behind it: its unit, if it has one."""

    value: float
    whole: bool
    unit: str


def mmvu_correct(prediction: str, answer: str, choices: Mapping[str, str] | None = None) -> bool:
    """True if `prediction` gives `answer`: a letter of `choices`, or without them a short text.

    Open questions: the same number (`TOLERANCE`, sign and unit equal); the same phrase within a
    reply that neither denies it nor names another one; or the same few words around an "of".
    """
    if choices:
        return choice_letter(prediction, choices) == answer.strip().upper()
    places = [place for place in answer_parts(prediction) if place.strip()]
    said = _normal(_STATED.split(places[0])[-1]) if places else ""
    return bool(said) and any(_gives(said, form) for form in _forms(answer))


def _forms(answer: str) -> list[str]:
    """`answer`, and each of the two where it ends in its acronym or its formula."""
    answer = _one_line(answer)
    parts = [answer, _ACRONYM.sub("", answer), *_ACRONYM.findall(answer)]
    return [form for part in parts if (form := _normal(part))]


def _normal(text: str) -> str:
    """`text` in lower case, without articles, possessives and hyphens; numerals are digits."""
    text = _FRAC.sub(r"\1/\2", plain_digits(_one_line(text)))
    text = re.sub(r"'s\b", "", _one_line(cleaned(text)).casefold())
    text = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", text)
    text = _NUMERAL.sub(lambda numeral: NUMERALS[numeral.group()], text)
    text = _ORDINAL.sub(lambda ordinal: _ORDINALS[ordinal.group()], text)
    text = _AROUND_OPERATOR.sub(r"\1", _MINUS.sub("-", _ARTICLE.sub("", text)))
    text = _REPEATED.sub(r"\1", _BRACED_POWER.sub(r"^\1", _PERCENT.sub("%", text)))
    text = _FRACTION.sub(_decimal, _SCIENTIFIC.sub(r"e\1", text))
    return " ".join(text.split()).strip(" .,;:!?\"'")


def _one_line(text: str) -> str:
    """`text` with one blank for every run of white space, of no more than MAX_CHARS characters.

    Patterns that begin with blanks take quadratic time in a run of them.
    """
    return " ".join(bounded(text, MAX_CHARS).split())


def _decimal(fraction: re.Match[str]) -> str:
    above, below = map(int, fraction.groups())
    return f"{above / below:.9g}" if below else fraction.group()


def _gives(said: str, wanted: str) -> bool:
    if said == wanted:
        return True
    quantity = _quantity(wanted)
    if quantity:
        return _says_quantity(said, quantity)
    return _says_phrase(said, wanted) or _same_words(said, wanted) or _says_value(said, wanted)


def _says_value(said: str, wanted: str) -> bool:
    """True for "12", "x is 12" or "x = 12.0" where `wanted` is "x = 12"."""
    named = _ASSIGNED.match(wanted)
    value = _quantity(wanted[named.end() :]) if named else None
    others = {name for name in _ASSIGNED.findall(said) if named and name != named[1]}
    return value is not None and not others and _says_quantity(said, value)


def _quantity(text: str) -> Quantity | None:
    """`text` as one number and its unit; None if it does not start with its only number."""
    number = _NUMBER.match(text)
    if not number:
        return None
    unit = text[number.end() :].strip()
    if re.search(r"\d", re.sub(r"\^-?\d+", "", unit)):
        return None
    value = number.group().replace(",", "")
    return Quantity(float(value), bool(re.fullmatch(r"[-+]?\d+", value)), unit)


def _says_quantity(said: str, wanted: Quantity) -> bool:
    """True if the only number of `said` is the one `wanted`, with its unit or without any."""
    numbers = list(_NUMBER.finditer(said))
    if len(numbers) != 1:
        return False
    place = numbers[0].span()
    if is_denied(said, *place, by_letter=False) or is_bound(said, *place):
        return False
    given = _quantity(said[numbers[0].start() :])
    if given is None:
        return False
    exact = given.whole and wanted.whole
    close = math.isclose(given.value, wanted.value, rel_tol=0 if exact else TOLERANCE)
    same_unit = re.match(re.escape(wanted.unit) + r"(?![\w^])", given.unit)
    return close and (not given.unit or not wanted.unit or bool(same_unit))


def _says_phrase(said: str, wanted: str) -> bool:
    """True if `said` contains the phrase `wanted`, and neither denies it nor names another."""
    if wanted in ("yes", "no"):
        return re.split(r"\W", said)[0] == wanted
    if len(wanted) == 1 or (_ALTERNATIVES.search(said) and not _ALTERNATIVES.search(wanted)):
        return False
    for phrase in re.finditer(rf"(?<![\w^.-]){re.escape(wanted)}(?![\w^-]|\.\d)", said):
        paired = said[: phrase.start()].endswith("and ") or said[phrase.end() :].startswith(" and ")
        if not paired and not is_denied(said, *phrase.span(), by_letter=False):
            return True
    return False


def _same_words(said: str, wanted: str) -> bool:
    """True for "law of Newton, the second" and "Newton's second law": equal words around "of".

    And where all that differs are the words' endings: "Newtons second law".
    """
    if not _FORMULA.search(wanted + said) and content_stems(said) == content_stems(wanted):
        return True
    if _ORDERED.search(wanted) or not (_OF.search(said) or _OF.search(wanted)):
        return False
    stems = {word.stem for word in words(wanted)} - _LINKS
    return 2 <= len(stems) <= 5 and stems == {word.stem for word in words(said)} - _LINKS
