"""Advantages of the rollouts of a batch, all ranks' together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from caprl_native.algorithm.groups import whitened
from caprl_native.algorithm.objective import advantages_of
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.types import Group, are_flat

Facts = tuple[float | None, int, dict[str, float]]  # total, tokens, rewards by term
GroupFacts = list[Facts]  # of the scored rollouts of a group


def facts_of(group: Group) -> GroupFacts:
    """What every rank is told of a group."""
    return [(r.total, len(r.token_ids), r.rewards) for r in group.scored]


def is_flat(facts: GroupFacts) -> bool:
    """Whether that group carries no gradient."""
    return are_flat(total for total, _, _ in facts)


def assign_advantages(
    groups: Sequence[Group],
    everywhere: Sequence[Sequence[GroupFacts]],
    algorithm: AlgorithmConfig,
    weights: Mapping[str, float],
) -> None:
    """Fills the advantages of this rank's scored rollouts.

    `everywhere`: by rank, the facts of its groups, so that what needs the whole batch (whitening, a
    deviation over the batch) gets it. `weights` are those of the reward terms.
    """
    all_groups = [group for part in everywhere for group in part]
    facts = [fact for group in all_groups for fact in group]
    if not facts:
        return
    index = [i for i, group in enumerate(all_groups) for _ in group]
    values = _advantages(facts, index, algorithm, weights).tolist()
    local = [r for g in groups for r in g.scored]
    first = sum(len(g) for part in everywhere[: dist.get_rank()] for g in part)
    for rollout, value in zip(local, values[first : first + len(local)], strict=True):
        rollout.advantage = value


def _advantages(
    facts: Sequence[Facts],
    index: list[int],
    algorithm: AlgorithmConfig,
    weights: Mapping[str, float],
) -> Tensor:
    """Of all rollouts of the batch, `[B]`, float64; `index`: the number of each one's group."""
    totals, lengths, rewards = zip(*facts, strict=True)
    tokens = torch.tensor(lengths, dtype=torch.float64)
    values = advantages_of(
        torch.tensor(totals, dtype=torch.float64),
        index,
        algorithm.advantage,
        lengths=tokens,
        terms={name: _column(rewards, name) for name in weights},
        weights=weights,
    )
    return whitened(values, tokens) if algorithm.whiten else values


def _column(rewards: Sequence[Mapping[str, float | None]], name: str) -> Tensor:
    """The rewards `[B]` of one term; NaN where a response has none."""
    found = [r.get(name) for r in rewards]
    return torch.tensor([float("nan") if v is None else v for v in found], dtype=torch.float64)
