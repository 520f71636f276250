"""Advantages of the rollouts of a batch, all ranks' together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from caprl_native.algorithm.groups import whitened
from caprl_native.algorithm.objective import advantages_of
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.distributed.world import gather_objects
from caprl_native.types import Group, Rollout

Facts = tuple[float | None, int, dict[str, float]]  # total, tokens, rewards by term


def assign_advantages(
    groups: Sequence[Group], algorithm: AlgorithmConfig, weights: Mapping[str, float]
) -> None:
    """Fills the advantages of this rank's scored rollouts (a collective).

    What needs the whole batch (whitening, a deviation over the batch) gets it. `weights` are those
    of the reward terms.
    """
    parts = gather_objects([[_facts(r) for r in g.scored] for g in groups])
    everywhere = [group for part in parts for group in part]
    facts = [fact for group in everywhere for fact in group]
    if not facts:
        return
    index = [i for i, group in enumerate(everywhere) for _ in group]
    values = _advantages(facts, index, algorithm, weights).tolist()
    local = [r for g in groups for r in g.scored]
    first = sum(len(g) for part in parts[: dist.get_rank()] for g in part)
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


def _facts(rollout: Rollout) -> Facts:
    return rollout.total, len(rollout.token_ids), rollout.rewards


def _column(rewards: Sequence[Mapping[str, float | None]], name: str) -> Tensor:
    """The rewards `[B]` of one term; NaN where a response has none."""
    found = [r.get(name) for r in rewards]
    return torch.tensor([float("nan") if v is None else v for v in found], dtype=torch.float64)
