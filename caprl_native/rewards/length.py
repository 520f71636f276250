"""The length reward: long captions cost, short ones do not."""

from __future__ import annotations


def length_reward(tokens: int, l1: int, l2: int) -> float:
    """1 up to `l1` tokens, linear down to 0 at `l2`; a step after `l1` when l2 is not above it."""
    if tokens <= l1:
        return 1.0
    if tokens >= l2:
        return 0.0
    return (l2 - tokens) / (l2 - l1)
