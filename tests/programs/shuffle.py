"""Each rank shuffles the totals of its captions among all: before, after, and in another step."""

from __future__ import annotations

import torch.distributed as dist

from caprl_native.batch import shuffle_rewards
from caprl_native.distributed.world import init_distributed
from caprl_native.types import Group, Rollout, Sample
from tests.ranks import report


def groups(rank: int) -> list[Group]:
    """Distinct totals; rank 0 has two groups, rank 1 three; one total is missing on each."""
    made = []
    for g in range(2 + rank):
        rollouts = [Rollout([1], [0.0], "stop", "") for _ in range(4)]
        for i, rollout in enumerate(rollouts):
            rollout.total = 100.0 * rank + 10 * g + i
        rollouts[g].total = None if g == 1 else rollouts[g].total
        made.append(Group(Sample(f"{rank}-{g}", (), ()), None, rollouts))
    return made


def totals(rank: int, step: int | None) -> list[float | None]:
    made = groups(rank)
    if step is not None:
        shuffle_rewards(made, 5, step)
    return [r.total for g in made for r in g.rollouts]


dims = init_distributed()
report(
    {
        "before": totals(dims.rank, None),
        "after": totals(dims.rank, 1),
        "again": totals(dims.rank, 1),
        "other step": totals(dims.rank, 2),
    }
)
dist.destroy_process_group()
