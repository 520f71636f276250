"""Numbers of a step, from groups of rollouts, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caprl_native.algorithm.groups import flat_groups
from caprl_native.distributed.world import gather_objects
from caprl_native.types import Group, Rollout

COMPONENTS = ("accuracy", "timestamps", "length")


def group_metrics(groups: Sequence[Group], *, prefix: str = "") -> dict[str, float]:
    """Means over all ranks' rollouts (a collective). Components that nobody has are left out.

    `reward/std`: mean over groups of the deviation (unbiased) within; `reward/zero_std_groups`: how
    many groups carry no gradient; `data/failed_rewards`: rollouts that got no reward.
    """
    local = [_facts(r) for g in groups for r in g.rollouts]
    everywhere = gather_objects((local, [_spread(g) for g in groups]))
    facts = [f for part, _ in everywhere for f in part]
    spreads = [s for _, part in everywhere for s in part if s is not None]
    scored = [f for f in facts if f["total"] is not None]
    metrics = {"reward/total/mean": _mean([f["total"] for f in scored])}
    for name in COMPONENTS:
        values = [f["rewards"][name] for f in scored if name in f["rewards"]]
        metrics[f"reward/{name}/mean"] = _mean(values)
    metrics |= {
        "reward/std": _mean([s for s, _ in spreads]),
        "reward/zero_std_groups": sum(flat for _, flat in spreads),
        "completion/length_mean": _mean([f["tokens"] for f in facts]),
        "completion/truncated_frac": _mean([f["truncated"] for f in facts]),
        "data/failed_rewards": len(facts) - len(scored),
    }
    return {prefix + key: value for key, value in metrics.items() if value is not None}


def _facts(rollout: Rollout) -> dict[str, Any]:
    return {
        "total": rollout.total,
        "rewards": rollout.rewards,
        "tokens": len(rollout.token_ids),
        "truncated": float(rollout.finish_reason == "length"),
    }


def _spread(group: Group) -> tuple[float, bool] | None:
    """Deviation of a group's rewards, and whether they are all equal; None below two."""
    rewards = torch.tensor([r.total for r in group.scored], dtype=torch.float64)
    if len(rewards) < 2:
        return None
    return rewards.std().item(), bool(flat_groups(rewards, [0] * len(rewards)).all())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
