"""Advantages of responses from the rewards of their group.

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

AdvantageKind = Literal["grpo", "rloo", "dr_grpo", "opo", "max_rl"]
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
        return cls(values, known, index, count, mean, (count < 2) | (low == high))

    def variance(self, kind: Deviation) -> Tensor:
        """Variance `[B]` within each group; `unbiased` divides by n - 1."""
        spread = torch.where(self.known, self.rewards - self.mean, 0.0).square()
        divisor = self.count - 1 if kind == "unbiased" else self.count
        return group_sum(spread, self.index) / divisor.clamp(min=1)

    def finish(self, advantages: Tensor, like: Tensor) -> Tensor:
        """Zero where the group is flat or the reward is missing; in the rewards' dtype."""
        dead = self.flat | ~self.known
        return torch.where(dead, 0.0, advantages).to(like.dtype)


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


def group_advantages(
    rewards: Tensor,
    group: Groups,
    kind: AdvantageKind = "grpo",
    *,
    std: Deviation = "unbiased",
    eps: float = 1e-6,
    min_variance: float = 0.0,
    std_scope: Literal["group", "batch"] = "group",
    lengths: Tensor | None = None,
    singleton: Literal["zero", "reward"] = "zero",
) -> Tensor:
    """One advantage per response, `[B]`, from rewards `[B]` and group ids.

    - `grpo`: (r - mean) / (std + eps), Shao et al. 2024; `std="none"` leaves the division out.
      `min_variance` is a floor under the variance, `std_scope="batch"` divides by the deviation
      of all known rewards of the batch.
    - `dr_grpo`: r - mean (Liu et al. 2025).
    - `rloo`: r - mean of the others (Ahmadian et al. 2024).
    - `opo`: r - mean weighted by `lengths` `[B]`, tokens (Hao et al. 2025).
    - `max_rl`: (r - mean) / mean, 0 in groups whose mean is not positive.

    `singleton="reward"` gives a lone response its raw reward instead of 0, as some trainers do.
    """
    stats = GroupStatistics.of(rewards, group)
    centred = stats.rewards - stats.mean
    if kind == "grpo":
        if std != "none":
            centred = centred / (_deviation(stats, std, min_variance, std_scope) + eps)
    elif kind == "rloo":
        centred = centred * stats.count / (stats.count - 1).clamp(min=1)
    elif kind == "opo":
        if lengths is None:
            raise ValueError("opo needs the lengths of the responses")
        weight = torch.where(stats.known, lengths.double(), 0.0)
        total = group_sum(weight, stats.index).clamp(min=1e-8)
        centred = stats.rewards - group_sum(weight * stats.rewards, stats.index) / total
    elif kind == "max_rl":
        positive = stats.mean > 0
        centred = torch.where(positive, centred / torch.where(positive, stats.mean, 1.0), 0.0)
    elif kind != "dr_grpo":
        raise ValueError(f"unknown advantage {kind!r}; valid: grpo, rloo, dr_grpo, opo, max_rl")
    advantages = stats.finish(centred, rewards)
    if singleton == "reward":
        alone = (stats.count == 1) & stats.known
        advantages = torch.where(alone, rewards.detach(), advantages)
    return advantages


def _deviation(
    stats: GroupStatistics, std: Deviation, min_variance: float, scope: Literal["group", "batch"]
) -> Tensor:
    """The deviation that `grpo` divides by, `[B]` or a scalar."""
    if std not in ("unbiased", "population"):
        raise ValueError(f"unknown deviation {std!r}; valid: unbiased, population, none")
    if scope == "batch":
        known = stats.rewards[stats.known]
        if len(known) < 2:
            return torch.zeros_like(stats.mean)
        variance = known.var(unbiased=std == "unbiased")
    else:
        variance = stats.variance(std)
    return variance.clamp(min=min_variance).sqrt()


def flat_groups(rewards: Tensor, group: Groups) -> Tensor:
    """True, `[B]`, where the response's group carries no gradient: equal rewards, or only one."""
    return GroupStatistics.of(rewards, group).flat


def pass_at_k_advantages(
    rewards: Tensor, group: Groups, *, std: Deviation = "unbiased", eps: float = 1e-6
) -> Tensor:
    """Only the best response of a group gets an advantage: its lead over the second best, `[B]`.

    Divided by the group's deviation + eps unless `std` is `none`; a tie at the top gives 0 to all.
    Follows Walder and Karkhanis 2025 as verl implements it.
    """
    stats = GroupStatistics.of(rewards, group)
    best = torch.where(stats.known, stats.rewards, -torch.inf)
    top = _group_extreme(best, stats.index, "amax")
    is_top = stats.known & (stats.rewards == top)
    alone_at_top = is_top & (group_sum(is_top.double(), stats.index) == 1)
    second = _group_extreme(torch.where(is_top, -torch.inf, best), stats.index, "amax")
    lead = torch.where(alone_at_top & second.isfinite(), top - second, 0.0)
    if std != "none":
        lead = lead / (_deviation(stats, std, 0.0, "group") + eps)
    return stats.finish(lead, rewards)


def length_penalised(rewards: Tensor, group: Groups, lengths: Tensor, weight: float) -> Tensor:
    """Rewards `[B]` minus `weight` x group mean x (length / longest in group), as prime-rl does.

    `lengths` `[B]` are tokens.
    """
    stats = GroupStatistics.of(rewards, group)
    longest = _group_extreme(torch.where(stats.known, lengths.double(), 0.0), stats.index, "amax")
    share = lengths.double() / longest.clamp(min=1)
    return (rewards.double() - weight * stats.mean * share).to(rewards.dtype)


def nonzero_scale(rewards: Tensor) -> float:
    """GPG's factor for advantages: responses / responses with a non-zero reward (at least 1)."""
    known = rewards[~rewards.isnan()]
    return len(known) / max(int((known != 0).sum()), 1)


def combine_rewards(rewards_bk: Tensor, weights_k: Tensor) -> Tensor:
    """Weighted sum of K rewards, `[B, K]` and `[K]` -> `[B]`.

    A missing (NaN) component is left out of the sum; where all are missing the result is NaN.
    """
    total = torch.nansum(rewards_bk * weights_k, dim=1)
    return torch.where(rewards_bk.isnan().all(1), torch.nan, total)


def normalised_sum_advantages(
    rewards_bk: Tensor,
    weights_k: Tensor,
    group: Groups,
    *,
    std: Deviation = "unbiased",
    eps: float = 1e-6,
) -> Tensor:
    """Each of K rewards normalised in its group, summed with weights, scaled over the batch, `[B]`.

    GDPO: a reward with a small spread counts as much as one with a large spread. A response is
    left out only where all its rewards are missing.
    """
    columns = [
        group_advantages(rewards_bk[:, k], group, "grpo", std=std, eps=eps)
        for k in range(rewards_bk.shape[1])
    ]
    present = ~rewards_bk.isnan().all(1)
    total = (torch.stack(columns, 1) * weights_k).sum(1)
    everyone = [0] * len(total)
    scaled = group_advantages(
        torch.where(present, total, torch.nan), everyone, "grpo", std=std, eps=eps
    )
    return scaled


def whiten(
    advantages_bt: Tensor,
    mask_bt: Tensor,
    *,
    std: Deviation = "unbiased",
    eps: float = 1e-8,
    min_variance: float = 0.0,
) -> Tensor:
    """Zero mean and unit variance over the unmasked tokens of the batch, `[B, T]`; 0 elsewhere.

    (a - mean) / sqrt(max(var, min_variance) + eps). Equal advantages give exactly 0.
    """
    inside = mask_bt != 0
    values = advantages_bt.double()[inside]
    if len(values) < 2 or bool(values.min() == values.max()):
        return torch.zeros_like(advantages_bt)
    variance = values.var(unbiased=std == "unbiased").clamp(min=min_variance)
    scaled = (advantages_bt.double() - values.mean()) / (variance + eps).sqrt()
    return torch.where(inside, scaled, 0.0).to(advantages_bt.dtype)
