"""CaptionQA: a right answer scores 1, a wrong one 0, "cannot answer" a little more than a guess.

The rule of bronyayang/CaptionQA (qa.py), but for how a yes/no question is known: it looks for the
letters "yes" and "no" anywhere in the choices, in "eyes" and "snow" as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

CANNOT_ANSWER = "Cannot answer from the caption"
BONUS = 0.05  # above a guess

_OPENINGS = frozenset(
    ("is", "are", "was", "were", "do", "does", "did", "have", "has", "had", "can", "could")
    + ("will", "would", "should", "shall", "may", "might", "must")
)


def is_yes_no(question: str, choices: Sequence[str]) -> bool:
    """Whether a question is answered by yes or no: such questions offer no "cannot answer".

    It has "yes" and "no" among its choices, or opens with an auxiliary verb.
    """
    words = [set(re.findall(r"\w+", choice.casefold())) for choice in choices]
    if any("yes" in w for w in words) and any("no" in w for w in words):
        return True
    opening, blank, _ = question.strip().casefold().partition(" ")
    return bool(blank) and opening in _OPENINGS


def abstention(choices: int) -> float:
    """What "cannot answer" scores beside so many choices. Raises ValueError for none."""
    if choices < 1:
        raise ValueError("a question needs a choice")
    return 1 / choices + BONUS
