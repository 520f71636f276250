"""The number that a judge's reply states as its verdict; None where that is not beyond doubt.

A verdict that cannot be read is missing, and asked for again; one that is guessed is a score.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from caprl_native.text.plain_text import bounded
from caprl_native.text.thoughts import without_thoughts
from eval.scoring.numerals import plain_digits

MAX_CHARS = 4000  # of a reply that are read

_MARKUP = re.compile(
    r"[*_`#>]|\\(?:boxed|text)\s?(?=\{)|</?[a-z]{1,12}>|<\|[^|<>]{0,40}\|>", re.IGNORECASE
)
# A number that is nothing else: no part of "2.5", "10", "2/3", "1-3", "-1", "100%", "x1".
_ONE = (
    r"(?<![\w.,/%-])(?P<number>\d)(?:\.0+)?"
    r"(?![\w/%]|[.,]\d|\s?[-\u2013]\s?\d|\s?(?:or|to|and)\s?\d)"
)
_WHOLE = re.compile(rf"[^\w-]*{_ONE}[^\w/%-]*")
# "The answer is 1" may speak of the answer that is judged, {"answer": 1} does not.
_LABELLED = re.compile(
    r"(?:\b(?:grade|score|rating|verdict|judge?ment|decision)\b|\"(?:answer|result)\")"
    rf"(?:\s*(?:is|of|=|:|-|\u2192)|[\s\"'{{\[(]|it\s)*{_ONE}",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"\b(?:so|thus|hence|therefore|(?:i|i'd|i would) (?:give|rate)(?: it)?)[\s,:]+(?:an?\s)?"
    rf"{_ONE}(?:\s*points?)?\W*$",
    re.IGNORECASE,
)
_OPENING = re.compile(
    rf"[^\w-]*{_ONE}(?P<mark>\s*[,;:!.)\u2013\u2014-]|\s*\n|\s+(?:because|since|as)\b)"
)
_LIST = re.compile(r"(?:^|[\n.;:]|\s)\s*2\s?[.)]\s")


def stated_number(reply: str, valid: Collection[int]) -> int | None:
    """The one of `valid` that `reply` states: alone, behind "score", or where the reply begins.

    The last line may state it, too. None where two statements differ, where the number is one of
    `valid` in no place of these ("2 objects are missing"), or where it numbers a list. Thoughts do
    not count.
    """
    text = plain_digits(bounded(without_thoughts(reply), MAX_CHARS))
    text = _MARKUP.sub(" ", text).strip()
    if whole := _WHOLE.fullmatch(text):
        found = {whole["number"]}
    else:
        found = {m["number"] for m in _LABELLED.finditer(text)}
        others = _opening(text), _CONCLUDED.search(text), _WHOLE.fullmatch(_last_line(text))
        found |= {m["number"] for m in others if m}
    numbers = {int(number) for number in found}
    return numbers.pop() if len(numbers) == 1 and numbers <= set(valid) else None


def _opening(text: str) -> re.Match[str] | None:
    """The number that the reply begins with, unless it begins a list."""
    found = _OPENING.match(text)
    if found and found["number"] == "1" and found["mark"].strip() in (".", ")", ":"):
        return None if _LIST.search(text, found.end()) else found
    return found


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2]


_NEGATIVE = re.compile(
    r"\b(?:not|no|n't|differ\w*|different|mismatch\w*|incorrect\w*|wrong\w*|miss(?:es|ing)|lacks?|"
    r"fails?|false|neither|omits?|contradict\w*|unlike)\b|n't\b",
    re.IGNORECASE,
)
_POSITIVE = re.compile(
    r"\b(?:same|match(?:es)?|equal|equivalent|correct|right|agrees?|identical|yes)\b", re.IGNORECASE
)


def contradicts(reply: str, same: bool) -> bool:
    """Whether the words of a reply speak against the verdict "the same", or against "not the same".

    "1. They are not the same" does; what merely explains does not.
    """
    text = bounded(without_thoughts(reply), MAX_CHARS)
    negative = bool(_NEGATIVE.search(text))
    return negative if same else bool(_POSITIVE.search(text)) and not negative
