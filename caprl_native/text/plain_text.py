"""Text that somebody else wrote, made safe to work on: of bounded length, in one Unicode form."""

from __future__ import annotations

import unicodedata
from itertools import groupby

MOST_MARKS = 30  # on one letter, as in Unicode's stream-safe text format


def bounded(text: str, most: int) -> str:
    """`text`, or its first third and its last two thirds of `most` characters, a line each.

    What models answer stands at the beginning or at the end.
    """
    if len(text) <= most:
        return text
    head = most // 3
    return text[:head] + "\n" + text[head + 1 - most :]


def normal_form(text: str) -> str:
    """`text` in Unicode's form NFKC, without invisible (format) characters and lone surrogates.

    Of more than 30 combining marks on a letter the rest is dropped: Python's normalisation takes
    quadratic time in them.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", _few_marks(text))
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cs"))


def _few_marks(text: str) -> str:
    runs = groupby(text, key=lambda c: unicodedata.combining(c) > 0)
    parts = ("".join(run)[: MOST_MARKS if marks else None] for marks, run in runs)
    return "".join(parts)
