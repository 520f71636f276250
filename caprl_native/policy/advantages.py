"""Advantages of the rollouts of a batch, all ranks' together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from caprl_native.algorithm.groups import whitened
from caprl_native.algorithm.objective import advantages_of
from caprl_native.config.flat import FlatConfig
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.types import Group


class Facts(NamedTuple):
    """What there is to know of a scored rollout."""

    total: float
    utility: float | None
    tokens: int
    rewards: dict[str, float]  # by term
    parts: dict[str, float]  # what these are made of, "term/part"


GroupFacts = list[Facts]  # of the scored rollouts of a group


def facts_of(group: Group) -> GroupFacts:
    """What every rank is told of a group."""
    return [
        Facts(r.total, r.utility, len(r.token_ids), r.rewards, r.parts)
        for r in group.rollouts
        if r.total is not None
    ]


def is_flat(facts: GroupFacts, flat: FlatConfig) -> bool:
    """Whether that group carries no gradient."""
    return flat.holds([f.total for f in facts], [f.utility for f in facts])


def levelled(facts: GroupFacts) -> GroupFacts:
    """A flat group's facts, with what its rewards still differ in taken out of them.

    Seven equal captions and one that is 0.01 worse in length alone would have advantages of +0.35
    and -2.47 in GRPO and in GDPO, which divide by a deviation, however small.
    """
    totals = [f.total for f in facts]
    return [
        f._replace(total=_mean(totals), rewards={k: _mean_of(facts, k) for k in f.rewards})
        for f in facts
    ]


def _mean_of(facts: GroupFacts, term: str) -> float:
    return _mean([f.rewards[term] for f in facts if term in f.rewards])


def _mean(values: Sequence[float]) -> float:
    """Of equal values, that value to the last bit."""
    return values[0] if min(values) == max(values) else sum(values) / len(values)


def assign_advantages(
    groups: Sequence[Group],
    everywhere: Sequence[Sequence[GroupFacts]],
    algorithm: AlgorithmConfig,
    weights: Mapping[str, float],
) -> None:
    """Fills the advantages of this rank's scored rollouts.

    `everywhere`: by rank, the facts of its groups, so that what needs the whole batch (whitening, a
    deviation over the batch) gets it. `weights` are those of the reward terms. Those of a flat
    group are 0, in GDPO to the last bits (before whitening, which gives all of a flat group the
    same).
    """
    flat = algorithm.flat
    all_groups = [
        levelled(group) if not flat.as_published and is_flat(group, flat) else group
        for part in everywhere
        for group in part
    ]
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
    totals, _, lengths, rewards, parts = zip(*facts, strict=True)
    tokens = torch.tensor(lengths, dtype=torch.float64)
    values = advantages_of(
        torch.tensor(totals, dtype=torch.float64),
        index,
        algorithm.advantage,
        lengths=tokens,
        terms={name: _column(rewards, name) for name in weights},
        weights=weights,
        parts={name: _column(parts, name) for name in sorted({n for p in parts for n in p})},
    )
    return whitened(values, tokens) if algorithm.whiten else values


def _column(rewards: Sequence[Mapping[str, float | None]], name: str) -> Tensor:
    """The rewards `[B]` of one term; NaN where a response has none."""
    found = [r.get(name) for r in rewards]
    return torch.tensor([float("nan") if v is None else v for v in found], dtype=torch.float64)
