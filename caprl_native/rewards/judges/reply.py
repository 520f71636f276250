"""What a judge's reply says: a number for each key of one JSON object, or nothing.

Nothing is guessed. A reply without the object, with two of them, with a key missing, or with a
value that is no number from 0 to 1 has no judgement: it is asked for again, and never a zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from caprl_native.messages import cut, shown
from caprl_native.text.plain_text import bounded
from caprl_native.text.thoughts import CUT_OFF, said

FACTUALITY, TEMPORAL, COVERAGE = "factuality", "temporal_alignment", "coverage"
HALLUCINATION = "hallucination_penalty"  # 1: nothing was made up
Seen = Literal["image", "video"]
KEYS: dict[Seen, tuple[str, ...]] = {
    "video": (FACTUALITY, TEMPORAL, COVERAGE, HALLUCINATION),
    "image": (FACTUALITY, COVERAGE, HALLUCINATION),
}
REASON = "reason"

SLACK = 0.05  # so far outside 0 to 1 a value is taken for the bound; beyond it, for another scale
_MAX_CHARS = 10_000  # of a reply: the object has some hundred
_REASON = 500  # characters
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")  # digits of any script


class Unreadable(ValueError):
    """A reply that is no judgement; the text says why not."""


@dataclass(frozen=True)
class Judgement:
    """Each key's value, 0 to 1, and what the judge gives as its reason."""

    values: dict[str, float]
    reason: str = ""


def read_judgement(output: str, keys: Sequence[str] = KEYS["video"]) -> Judgement:
    """The judgement in a reply, thoughts aside: one JSON object, whatever text is around it.

    Numbers may be written as texts ("0.8"); true and false are 1 and 0. A key that is given twice,
    with two values, is none.

    Raises:
        Unreadable: there is no such object, or more than one.
    """
    text, cut_off = said(output)
    found = list(judgements_in(bounded(text, _MAX_CHARS), keys))
    if len(found) != 1:
        many = f"{len(found)} objects with scores, expected one"
        none = "no JSON object with scores"
        raise Unreadable(CUT_OFF if cut_off else many if found else none)
    values = {key: _value(key, found[0]) for key in keys}
    reasons = (v for k, v in found[0] if k == REASON and isinstance(v, str))
    return Judgement(values, cut(next(reasons, ""), _REASON))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, keys that are given twice included."""


# Not strict: models break lines within a reason, where JSON wants "\\n".
_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False)


def judgements_in(text: str, keys: Sequence[str]) -> Iterator[_Pairs]:
    """The outermost JSON objects of a text that hold at least one of the keys."""
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            found, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):  # a brace that opens no object
            at += 1
            continue
        if any(key in keys for key, _ in found):
            yield found


def _value(key: str, pairs: _Pairs) -> float:
    values = [_number(key, value) for name, value in pairs if name == key]
    if not values:
        raise Unreadable(f"{key} is missing")
    if len(set(values)) > 1:
        raise Unreadable(f"{key} is given twice, with different values")
    return values[0]


def _number(key: str, value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    # Of an integer of any length; NaN is on neither side of a bound.
    if not isinstance(value, int | float) or not -SLACK <= value <= 1 + SLACK:
        raise Unreadable(f"{key} is {shown(value, 60)}, expected a number from 0 to 1")
    return min(1.0, max(0.0, float(value)))


def fused(values: dict[str, float], weights: dict[str, float]) -> float:
    """The weighted mean, 0 to 1. `weights` need not add up to 1."""
    total = sum(weights.values())
    mean = sum(weight * values[key] for key, weight in weights.items()) / total
    return min(1.0, max(0.0, mean))
