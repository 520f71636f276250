"""What every rank is going to do in an optimizer step, worked out from the shapes of all groups.

So that the ranks need not ask one another: packing depends on lengths alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caprl_native.policy.balance import GroupShape, Shares
from caprl_native.policy.families import Prompt
from caprl_native.policy.packing import PackedRow, pack


@dataclass(frozen=True)
class Plan:
    """One optimizer step over all ranks; the same on each of them."""

    tokens: int  # of the responses
    sequences: int  # responses
    micro_batches: int  # the most that a rank has
    media: list[int]  # by rank: prompts with media
    passes: list[int]  # by rank: how often they come, over the micro-batches

    @classmethod
    def of(cls, shares: Shares, budget: int) -> Plan:
        """For micro-batches of at most `budget` positions."""
        lengths = [n for share in shares for shape in share for n in shape.responses]
        packed = [pack(_rows(share), budget) for share in shares]
        with_media = [
            [row.prompt.media is not None for batch in batches for row in batch]
            for batches in packed
        ]
        return cls(
            tokens=sum(lengths),
            sequences=len(lengths),
            micro_batches=max(map(len, packed)),
            media=[sum(shape.has_media for shape in share) for share in shares],
            passes=[sum(flags) for flags in with_media],
        )


def _rows(share: Sequence[GroupShape]) -> list[PackedRow]:
    """Rows of these lengths without a token."""
    return [
        PackedRow(_blank(shape), [range(n) for n in shape.responses], [0] * len(shape.responses))
        for shape in share
    ]


def _blank(shape: GroupShape) -> Prompt:
    ids = torch.empty(shape.prompt, dtype=torch.long, device="meta")
    return Prompt(ids, ids, media={} if shape.has_media else None)
