"""Statistics of rewards within the groups of a batch, and over the batch.

A reward of NaN is a missing one: it takes no part in any statistic and its advantage is 0. A
group whose (known) rewards are all equal, a group of one included, gets exactly 0: all arithmetic
is float64, and equality is tested on the rewards, not on a rounded deviation (six equal rewards of
-3.1 in float32 have given advantages of 0.9).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Deviation = Literal["unbiased", "population", "none"]
Groups = Tensor | Sequence[Hashable]


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of the known rewards of each response's group, all `[B]`, float64."""

    rewards: Tensor  # 0 where missing
    known: Tensor  # bool
    index: Tensor  # int64, the group's number
    count: Tensor
    mean: Tensor
    flat: Tensor  # bool: fewer than two known rewards, or all of them equal
    highest: Tensor  # the largest known reward; -inf where there is none

    @classmethod
    def of(cls, rewards: Tensor, group: Groups) -> GroupStatistics:
        raw = rewards.detach().double()
        known = ~raw.isnan()
        index = group_index(group, rewards)
        values = torch.where(known, raw, 0.0)
        count = group_sum(known.double(), index)
        low = _group_extreme(torch.where(known, raw, torch.inf), index, "amin")
        high = _group_extreme(torch.where(known, raw, -torch.inf), index, "amax")
        mean = group_sum(values, index) / count.clamp(min=1)
        return cls(values, known, index, count, mean, (count < 2) | (low == high), high)

    @property
    def centred(self) -> Tensor:
        """Reward minus the group's mean, `[B]`."""
        return self.rewards - self.mean

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` `[B]` over each response's group, missing ones left out, `[B]`."""
        return group_sum(torch.where(self.known, values, 0.0), self.index)

    def variance(self, kind: Deviation) -> Tensor:
        """Variance `[B]` within each group; `unbiased` divides by n - 1."""
        spread = torch.where(self.known, self.rewards - self.mean, 0.0).square()
        divisor = self.count - 1 if kind == "unbiased" else self.count
        return group_sum(spread, self.index) / divisor.clamp(min=1)

    def as_one(self, values: Tensor | None = None) -> GroupStatistics:
        """Statistics of the known rewards, or of other values, with the batch as one group."""
        values = self.rewards if values is None else values
        known = torch.where(self.known, values, torch.nan)
        return GroupStatistics.of(known, torch.zeros_like(self.index))

    def finish(self, advantages: Tensor) -> Tensor:
        """`advantages` `[B]`, exactly 0 where the group is flat or the reward is missing."""
        return torch.where(self.flat | ~self.known, 0.0, advantages)


def group_index(group: Groups, like: Tensor) -> Tensor:
    """Group ids (a tensor, or any hashables) as numbers from 0, `[B]`, in order of appearance."""
    ids = group.tolist() if isinstance(group, Tensor) else list(group)
    if len(ids) != len(like):
        raise ValueError(f"{len(like)} rewards but {len(ids)} group ids")
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(i, len(numbers)) for i in ids]
    return torch.tensor(index, dtype=torch.long, device=like.device)


def group_sum(values: Tensor, index: Tensor) -> Tensor:
    """Each element's group total, `[B]`."""
    return torch.zeros_like(values).index_add(0, index, values)[index]


def _group_extreme(values: Tensor, index: Tensor, how: str) -> Tensor:
    start = torch.zeros_like(values)
    return start.scatter_reduce(0, index, values, reduce=how, include_self=False)[index]


def whitened(advantages: Tensor, lengths: Tensor, floor: float = 1e-8) -> Tensor:
    """Advantages `[B]` with mean 0 and variance 1 over the batch's tokens, `[B]`, float64.

    (a - m) / sqrt(max(v, floor)), with the mean m and the population variance v of all tokens: a
    response of `lengths` `[B]` tokens counts so many times (OpenRLHF, CapRL 1.0). Equal advantages
    give exactly 0.
    """
    values, weights = advantages.double(), lengths.double()
    present = values[weights > 0]
    if len(present) == 0 or bool(present.min() == present.max()):
        return torch.zeros_like(values)
    tokens = weights.sum()
    mean = (weights * values).sum() / tokens
    variance = (weights * (values - mean).square()).sum() / tokens
    return torch.where(weights > 0, (values - mean) / variance.clamp(min=floor).sqrt(), 0.0)
