"""VCapsBench: what a caption says to questions of yes or no, and the three rates.

The rule of GXYM/VCapsBench (LLM4eval-m.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Outcome = Literal["right", "wrong", "unanswerable"]
YES, NO, UNANSWERABLE = "yes", "no", "unanswerable"
ANSWERS = (YES, NO, UNANSWERABLE)


def outcome(answer: str, gold: str) -> Outcome:
    """What an answer, one of `ANSWERS`, is beside the right one."""
    if answer == gold:
        return "right"
    return "unanswerable" if answer == UNANSWERABLE else "wrong"


def rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """AR, the share of right answers; IR, of wrong ones among those answered; CR, of answered ones.

    Shares; IR is left out where nothing was answered, and all are where there is no outcome.
    """
    if not outcomes:
        return {}
    right, wrong = outcomes.count("right"), outcomes.count("wrong")
    answered, total = right + wrong, len(outcomes)
    found = {"AR": right / total, "CR": answered / total}
    return found | ({"IR": wrong / answered} if answered else {})
