"""The bytes of a request to JSON, within limits, and without the standard parser's leniency."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_MOST_VALUES = 4_000_000  # of one body, by its brackets and commas outside of texts
_MOST_DIGITS = 19  # of a whole number: with all that fit 64 bits, seeds up to 2**62 among them
# Texts, escapes included, and everything else that is no bracket. Possessive: nothing is retried.
_NO_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\[\]{}",]++', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"


class BadBody(ValueError):
    """A body that is refused; the text says why, and quotes nothing of it."""


def parse_body(body: bytes, max_depth: int) -> Any:
    """The JSON value.

    Raises BadBody: no JSON in UTF-8, deeper than `max_depth`, millions of values, a name twice in
    an object, NaN or infinities, whole numbers beyond 64 bits, half of a surrogate pair.
    """
    _check_shape(body, max_depth)
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
    except BadBody:
        raise
    except UnicodeDecodeError:
        raise BadBody("the body is not UTF-8") from None
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None
    except ValueError as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadBody(f"the body is not JSON{where}") from None
    if "\\ud" in text or "\\uD" in text:
        _check_unicode(value)
    return value


def _check_shape(body: bytes, max_depth: int) -> None:
    """Depth and size by the brackets alone, before anything is built."""
    marks = _NO_BRACKETS.sub(b"", body)
    if len(marks) > _MOST_VALUES:
        raise BadBody(f"the body has more than {_MOST_VALUES:,} values")
    depth = 0
    for mark in marks.replace(b",", b""):
        depth += 1 if mark in _OPEN else -1 if mark in _CLOSE else 0
        if depth > max_depth:
            raise BadBody(f"the body is nested more than {max_depth} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadBody("an object has the same name twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise BadBody(f"{name} is no JSON number")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise BadBody(f"a whole number has more than {_MOST_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BadBody("a number is too large")
    return number


def _check_unicode(value: Any) -> None:
    """Half of a surrogate pair is no text: it could be neither tokenized nor answered."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadBody("a text holds half of a surrogate pair") from None
