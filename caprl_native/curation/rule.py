"""Which questions are kept: those answered with the media, and not without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from caprl_native.curation.config import FilterConfig
from caprl_native.curation.rounds import KINDS

KEPT = "kept"
MISSING = "rounds missing"
NOT_SEEN = "not answered with the media"
GUESSED = "answered without the media"
BOTH = "not answered with the media, but without"
LONG = "too many words"


@dataclass(frozen=True)
class Share:
    """Of how many rounds how many were right."""

    right: int
    rounds: int

    @property
    def exact(self) -> Fraction:
        return Fraction(self.right, self.rounds)


_WORD = re.compile("[\u4e00-\u9fff]|[^\\s\u4e00-\u9fff]+")

Shares = dict[str, Share]  # by kind, "media" and "text"


def shares(rounds: Sequence[Mapping[str, Any]]) -> Shares | None:
    """The accuracies of one question; None where a round has no answer."""
    if not rounds or any("failure" in its for its in rounds):
        return None
    by_kind = {kind: [its["right"] for its in rounds if its["kind"] == kind] for kind in KINDS}
    return {kind: Share(sum(right), len(right)) for kind, right in by_kind.items()}


def verdict(question: str, found: Sequence[Shares | None], rule: FilterConfig) -> str:
    """`KEPT`, or why a question is not; `found`: of each solver, all of which have to agree.

    Both limits are strict and compared exactly: of four rounds 3/4 is not above 0.75.
    """
    if rule.max_per_question_words and words(question) > rule.max_per_question_words:
        return LONG
    if not found or any(its is None for its in found):
        return MISSING
    above, below = Fraction(str(rule.visual_above)), Fraction(str(rule.text_below))
    known = [its for its in found if its is not None]
    seen = all(its["media"].exact > above for its in known)
    hidden = all(its["text"].exact < below for its in known)
    if seen:
        return KEPT if hidden else GUESSED
    return NOT_SEEN if hidden else BOTH


def words(text: str) -> int:
    """Words; every Chinese character is one."""
    return len(_WORD.findall(text))
