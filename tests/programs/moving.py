"""A batch of groups of videos is balanced over the ranks; each reports what came and what it sent.

Arguments: how many groups, and whose they are at first: "of rank 0", "in turn" or "balanced".
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from caprl_native.distributed.world import ParallelDims, init_distributed
from caprl_native.policy import parcels
from caprl_native.policy.balance import Costs, GroupShape, balanced
from caprl_native.policy.families import Prompt
from caprl_native.types import Group, Rollout, Sample
from tests.ranks import report

COSTS = Costs(token=1.0, answer=0.0, pair=0.0, patch=0.0)
PATCH = 96  # numbers of a patch; a real one's are 1,536


def main(count: str, first: str) -> None:
    dims = init_distributed()
    made = [video_group(i) for i in range(int(count))]
    sent: list[int] = []
    real = dist.all_to_all_single

    def counted(output: torch.Tensor, given: torch.Tensor, *splits: list[int]) -> object:
        sent.append(given.numel())
        return real(output, given, *splits)

    parcels.dist.all_to_all_single = counted
    mine = own(made, dims, first)
    (got,), (shares,) = balanced([mine], COSTS, dims.device)
    left = [g for g in mine if not any(g is kept for kept in got)]
    report(
        {
            "here": [int(g.sample.id) for g in got],
            "changed": [g.sample.id for g in got if not same(g, made[int(g.sample.id)])],
            "shapes": [
                s == GroupShape.of(g, s.nbytes) for g, s in zip(got, shares[dims.rank], strict=True)
            ],
            "load": sum(map(COSTS.group, shares[dims.rank])),
            "tensors": sum(t.nbytes for g in left for t in tensors(g)),
            "moved": len(left),
            "sent": sent,
        }
    )
    dist.destroy_process_group()


def own(made: list[Group], dims: ParallelDims, first: str) -> list[Group]:
    if first == "in turn":
        return made[dims.rank :: dims.world]
    if first == "balanced":  # the four sizes come in turn
        return made[dims.rank * 4 :][:4]
    return made if dims.is_main else []


def video_group(i: int) -> Group:
    """A prompt of one of four sizes, with 4 responses; one of them got no reward."""
    torch.manual_seed(i)
    tokens = 64 * (1 + i % 4)
    grid = torch.tensor([[tokens // 16, 8, 8]])
    media = {"patches": torch.randn(4 * tokens, PATCH), "grid": grid}
    prompt = Prompt(torch.randint(0, 999, (tokens,)), torch.full((tokens,), 2), media, 4 * tokens)
    rollouts = [
        Rollout(torch.randint(0, 999, (n,)).tolist(), torch.randn(n).tolist(), "stop", "words " * n)
        for n in (3, 20, 7, 11)
    ]
    for k, rollout in enumerate(rollouts[:3]):
        rollout.total, rollout.advantage = 0.1 * k, 0.3 * k - 0.3
        rollout.reading = [{"question": "what " * 20, "answer": "a"}] * 4
    prompt.engine = {"frames": bytes(100_000)}
    return Group(Sample(str(i), (), ()), prompt, rollouts)


def tensors(group: Group) -> list[torch.Tensor]:
    prompt = group.prompt
    return [prompt.ids, prompt.token_types, *prompt.media.values()]


def same(ours: Group, theirs: Group) -> bool:
    """Whether all that an update reads is equal, bit for bit."""
    pairs = zip(tensors(ours), tensors(theirs), strict=True)
    equal = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    facts = [
        [(r.token_ids, r.logprobs, r.total, r.advantage, r.finish_reason) for r in g.rollouts]
        for g in (ours, theirs)
    ]
    named = [(g.prompt.num_patches, list(g.prompt.media)) for g in (ours, theirs)]
    return equal and named[0] == named[1] and facts[0] == facts[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
