"""What the most likely first tokens of an answer, which an endpoint lists, say of each choice."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from caprl_native.data.choices import LETTERS, squeezed
from caprl_native.rewards.readers.openings import SHARED
from caprl_native.text.plain_text import normal_form

LISTED = 20  # tokens that servers list at most

_LABEL = re.compile(r"[\W_]*([A-Z]|[b-hj-z])[\W_]*")  # "a" and "i" are words

_MARKS = re.compile(r"[(\[{\u3010*_`\"'$\\<]+")  # what stands before a label


def at_temperature(
    logprobs: Sequence[float], temperature: float, top_p: float = 1.0
) -> list[float]:
    """Probabilities of tokens that a server lists at temperature 1, at another one.

    What is not listed, `u` in all, is taken for tokens as likely as the least likely listed one,
    `p`: it then weighs u p^(1/T - 1), its upper bound; 0 <= T <= 1. `top_p`: the likeliest tokens
    that reach so much together share 1. Temperature 0: the likeliest has 1.
    """
    ordered = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])
    if not temperature:
        return [float(i == ordered[0]) for i in range(len(logprobs))]
    weights = [math.exp(value / temperature) for value in logprobs]
    unlisted = max(0.0, 1.0 - sum(map(math.exp, logprobs)))
    total = sum(weights) + unlisted * math.exp(min(logprobs) * (1 / temperature - 1))
    kept, reached = [0.0] * len(logprobs), 0.0
    for i in ordered:
        if reached >= top_p:
            return [p / reached for p in kept]
        kept[i] = weights[i] / total
        reached += kept[i]
    return kept


def chances(
    tokens: Sequence[str], probabilities: Sequence[float], choices: Sequence[str]
) -> tuple[float, ...] | None:
    """The probability of each choice; None where a likely token may stand for several of them.

    A token is a choice's when it is its label, whatever marks are around it, or when no other
    choice's text begins like it. A mark alone (" (", " **") may open the label of any.
    """
    of_choices, shared = [0.0] * len(choices), 0.0
    for token, probability in zip(tokens, probabilities, strict=True):
        meant = _meant(normal_form(token).strip(), choices)
        if len(meant) == 1:
            of_choices[meant[0]] += probability
        elif meant or _MARKS.fullmatch(normal_form(token).strip()):
            shared += probability
    return None if shared > SHARED else tuple(of_choices)


def _meant(token: str, choices: Sequence[str]) -> list[int]:
    if not token:
        return []
    label = _LABEL.fullmatch(token)
    labelled = LETTERS.find(label.group(1).upper()) if label else -1
    if 0 <= labelled < len(choices):
        return [labelled]
    start = squeezed(token).casefold()
    return [i for i, choice in enumerate(choices) if squeezed(choice).casefold().startswith(start)]
