"""What the verbs of the loop hand to one another: a step's captions, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import gather_objects
from caprl_native.rewards.rubric import Scoring
from caprl_native.seeds import rng_of
from caprl_native.types import Group


@dataclass
class Batch:
    """This rank's captions of one step.

    `scoring` holds the captions whose rewards are still to come, until `Trainer.score`.
    """

    step: int
    groups: list[Group]
    scoring: Scoring
    skipped: int  # prompts, of all ranks, that could not be used
    dropped: list[Group] = field(default_factory=list)  # sampled, but given up for better ones

    @property
    def sampled(self) -> list[Group]:
        """All that was sampled, for the report."""
        return [*self.groups, *self.dropped]

    @property
    def trainable(self) -> list[Group]:
        """The groups that an advantage can be taken of: with two rewards or more."""
        return [group for group in self.groups if len(group.scored) >= 2]

    def drop_flat(self) -> None:
        """Gives up the groups that carry no gradient."""
        self.dropped += [g for g in self.groups if g.is_flat]
        self.groups = [g for g in self.groups if not g.is_flat]

    def absorb(self, fresh: Batch) -> None:
        """Takes over what another batch of the same step has."""
        self.groups += fresh.groups
        self.dropped += fresh.dropped
        self.skipped += fresh.skipped

    def keep(self, count: int) -> None:
        """Gives up all but the first `count` groups."""
        self.dropped += self.groups[count:]
        del self.groups[count:]


def require_rewards(batch: Batch) -> None:
    """Raises RunError where no group of any rank can be trained on; it quotes a reason (a
    collective)."""
    if sum(gather_objects(len(batch.trainable))):
        return
    failures = [r.failure for g in batch.groups for r in g.rollouts if r.failure]
    reasons = [reason for part in gather_objects(failures[:1]) for reason in part]
    raise RunError(
        f"step {batch.step}: no group has two rewards, so there is nothing to learn from"
        + (f"; e.g. {reasons[0]}" if reasons else "")
    )


def shuffle_rewards(groups: Sequence[Group], seed: int, step: int) -> None:
    """The control experiment: rewards are shuffled over all ranks' captions (a collective)."""
    scored = [r for g in groups for r in g.scored]
    parts = gather_objects([r.total for r in scored])
    totals = [total for part in parts for total in part]
    rng_of("shuffle", seed, step).shuffle(totals)
    first = sum(len(part) for part in parts[: dist.get_rank()])
    for rollout, total in zip(scored, totals[first : first + len(scored)], strict=True):
        rollout.total = total
