"""TOMATO's first-stage parser, the part of its evaluation that asks no language model.

The rule is that of yale-nlp/TOMATO, src/parse_result.py. A reply that it does not accept goes to a
language model there, and to a random letter after that; `letters.choice_letter` is the rule to use
for such replies without a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# No blank before the letter, and "Answer" in this case only; E and F also with fewer options.
_STATED = re.compile(r"Answer is:?\(?([A-Fa-f])\)?")


def official_letter(prediction: str, choices: Mapping[str, str]) -> str | None:
    """The upper-case letter that the official rule reads, which may lie outside `choices`, or None.

    It reads a lone letter, "A: text" in full, and "Answer is:A". The reply is upper-cased before it
    is compared with "A: text" but the option is not, so that only options without lower-case
    letters are ever found that way.
    """
    reply = prediction.strip()
    if len(reply) == 1 and reply.upper() in choices:
        return reply.upper()
    if reply.upper() in {f"{letter}: {text}" for letter, text in choices.items()}:
        return reply[0].upper()
    stated = _STATED.fullmatch(reply)
    return stated.group(1).upper() if stated else None


def is_accepted(prediction: str, choices: Mapping[str, str]) -> bool:
    """True if the official rule reads one of `choices`, so that no language model is asked."""
    return official_letter(prediction, choices) in choices
