"""What a judge's reply states in words or as an object; None where that is not beyond doubt.

As with `verdicts`: what cannot be read is asked for again, what is guessed would be a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from caprl_native.text.plain_text import bounded, normal_form
from caprl_native.text.thoughts import without_thoughts
from eval.scoring.relaxed import literal_list

MAX_CHARS = 10_000  # of a reply that are read
_MOST_OBJECTS, _SHORT = 100, 6  # braces that are tried; words of a reply that says no more

_MARKUP = re.compile(r"[*_`#>]|\\(?:boxed|text)\s?(?=\{)|</?[a-z]{1,12}>", re.IGNORECASE)
_ENDS = r"(?=\W*$|\s*(?:[.,;:!)\]}\"'\u3002\uff0c\n\u2013\u2014@]|-\s))"
_LABEL = r"\b(?:answer|verdict|result|judge?ment|conclusion)\b(?:\s*(?:is|:|=|-)|[\s\"'({\[])*"


def plain_reply(reply: str) -> str:
    """A reply without thoughts and markup, of bounded length."""
    text = normal_form(bounded(without_thoughts(reply), MAX_CHARS))
    return _MARKUP.sub(" ", text).strip()


def stated_word(reply: str, words: Collection[str]) -> str | None:
    """The one of `words` that `reply` states: alone, where it begins, behind "answer", or last.

    Alone on the last line, that is. "No one is there" does not state "no"; None where two
    statements differ, and where a short reply names two of the words.
    """
    text = plain_reply(reply).casefold()
    listed = "|".join(re.escape(word.casefold()) for word in words)
    word = rf"(?P<word>{listed})\b{_ENDS}"
    places = (
        re.match(rf"\W*{word}", text),
        re.fullmatch(rf"\W*(?P<word>{listed})\W*", text.rpartition("\n")[2]),
    )
    found = {place["word"] for place in places if place}
    found |= {place["word"] for place in re.finditer(_LABEL + word, text)}
    if len(text.split()) <= _SHORT:
        found |= {place[0] for place in re.finditer(rf"\b(?:{listed})\b", text)} if found else set()
    return found.pop() if len(found) == 1 else None


def stated_object(reply: str, key: str) -> dict[str, Any] | None:
    """The object that has `key` in a reply, written as JSON or as Python does, thoughts aside.

    None where there is none, or two that differ, or one that has a key twice with two values.
    """
    text = bounded(without_thoughts(reply), MAX_CHARS)
    try:
        found = [value for value in _objects(text) if key in value]
    except _Twice:
        return None
    if not found:
        listed = literal_list(f"[{text[text.find('{') : text.rfind('}') + 1]}]")
        found = [v for v in listed or [] if isinstance(v, dict) and key in v]
    return found[0] if found and all(value == found[0] for value in found) else None


class _Twice(Exception):
    """An object has a key twice, with two values."""


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects of a text. Raises _Twice."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, strict=False)
    at, tries = 0, 0
    while tries < _MOST_OBJECTS and (at := text.find("{", at)) >= 0:
        tries += 1
        try:
            value, at = decoder.raw_decode(text, at)
            yield value
        except (ValueError, RecursionError):
            at += 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises _Twice."""
    found = dict(pairs)
    if any(found[key] != value for key, value in pairs):
        raise _Twice
    return found


def number_in(value: Any) -> float | None:
    """The number that a value is, or that it spells; None for anything else, true and NaN too."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,9}(?:\.\d{1,9})?", value.strip()):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e9 else None
