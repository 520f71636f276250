"""A reward term in a file of one's own: it has its options in `--help`, bounds and all.

plugins = ["examples/reward_term.py"]

[reward.terms.fresh]
ngram = 4
weight = 0.1
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Literal

from pydantic import Field

from caprl_native.rewards.base import (
    NOT_APPLICABLE,
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermOptions,
    finished,
)


class FreshOptions(TermOptions):
    """How little a caption repeats itself."""

    type: Literal["fresh"] = "fresh"
    ngram: int = Field(3, ge=1, description="Words in a row that count as repeated.")


@TERMS.register(FreshOptions)
class Fresh(RewardTerm[FreshOptions]):
    """The share of a caption's n-grams that are different ones; short captions have none."""

    def submit(self, caption: Caption) -> Future[Score]:
        words, n = caption.text.lower().split(), self.options.ngram
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if not grams:
            return finished(NOT_APPLICABLE)
        repeated = sorted({" ".join(gram) for gram in grams if grams.count(gram) > 1})
        value = len(set(grams)) / len(grams)
        return finished(Score(value, reading=[{"repeated": repeated}]))
