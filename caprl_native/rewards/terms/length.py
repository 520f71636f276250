"""The length reward: long captions cost, short ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Literal

from pydantic import Field

from caprl_native.rewards.base import TERMS, Caption, RewardTerm, Score, ShapingOptions, finished


class LengthOptions(ShapingOptions):
    """1 for captions of few tokens, falling to 0 for long ones."""

    type: Literal["length"] = "length"
    l1: int = Field(2048, ge=0, description="Up to this many tokens the length reward is 1.")
    l2: int = Field(3072, ge=0, description="From this many tokens on it is 0; linear between.")

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        if self.l1 >= self.l2:
            yield "l2", "more than l1", "l1"


@TERMS.register(LengthOptions)
class Length(RewardTerm[LengthOptions]):
    def submit(self, caption: Caption) -> Future[Score]:
        return finished(length_reward(caption.tokens, self.options.l1, self.options.l2))


def length_reward(tokens: int, l1: int, l2: int) -> float:
    """1 up to `l1` tokens, linear down to 0 at `l2`; a step after `l1` when l2 is not above it."""
    if tokens <= l1:
        return 1.0
    if tokens >= l2:
        return 0.0
    return (l2 - tokens) / (l2 - l1)
