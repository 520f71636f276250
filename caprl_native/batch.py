"""What the verbs of the loop hand to one another: a step's captions, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from caprl_native.config.flat import FlatConfig
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import gather_objects
from caprl_native.policy.advantages import GroupFacts, facts_of, is_flat
from caprl_native.rewards.blind import Blind
from caprl_native.rewards.rubric import Scoring
from caprl_native.seeds import rng_of
from caprl_native.types import Group


@dataclass
class Batch:
    """This rank's captions of one step, and what there is to know of the other ranks'.

    `scoring` holds the captions whose rewards are still to come, until `Trainer.score`.
    `everywhere`: by rank, the facts of its `groups`; there after `share`.
    """

    step: int
    groups: list[Group]
    scoring: Scoring
    prompts: list[int]  # how many this rank was given, could not use, and had to reduce
    skipped: int = 0  # prompts, of all ranks, that could not be used
    reduced: int = 0  # prompts, of all ranks, whose media were reduced to fit
    everywhere: list[list[GroupFacts]] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)  # sampled, but given up for better ones
    left: dict[str, float] = field(default_factory=dict)  # metrics of texts for later prompts
    blind: Blind | None = None  # where the step is due: what the reader knows without captions

    @property
    def sampled(self) -> list[Group]:
        """All that was sampled, for the report."""
        return [*self.groups, *self.dropped]

    @property
    def trainable(self) -> list[Group]:
        """The groups that an advantage can be taken of: with two rewards or more."""
        return [group for group in self.groups if len(group.scored) >= 2]

    @property
    def trainable_everywhere(self) -> list[list[GroupFacts]]:
        """By rank, the facts of its `trainable` groups."""
        return [[facts for facts in part if len(facts) >= 2] for part in self.everywhere]

    @property
    def counts(self) -> list[int]:
        """How many groups each rank has."""
        return [len(part) for part in self.everywhere]

    def share(self) -> list[int]:
        """Tells all ranks of this one's groups (a collective); returns all ranks' `prompts`."""
        told = gather_objects((self.prompts, [facts_of(g) for g in self.groups]))
        self.everywhere = [facts for _, facts in told]
        return [sum(numbers) for numbers in zip(*(prompts for prompts, _ in told), strict=True)]

    def drop_flat(self, flat: FlatConfig) -> None:
        """Gives up the groups that carry no gradient."""
        self.dropped += [g for g in self.groups if flat.holds_of(g)]
        self.groups = [g for g in self.groups if not flat.holds_of(g)]
        self.everywhere = [[f for f in part if not is_flat(f, flat)] for part in self.everywhere]

    def absorb(self, fresh: Batch) -> None:
        """Takes over what another batch of the same step has."""
        self.groups += fresh.groups
        self.dropped += fresh.dropped
        self.skipped += fresh.skipped
        self.reduced += fresh.reduced
        pairs = zip(self.everywhere, fresh.everywhere, strict=True)
        self.everywhere = [ours + theirs for ours, theirs in pairs]

    def keep(self, counts: Sequence[int]) -> None:
        """Each rank gives up all but so many of its groups, the first ones."""
        count = counts[dist.get_rank()]
        self.dropped += self.groups[count:]
        del self.groups[count:]
        self.everywhere = [part[:n] for part, n in zip(self.everywhere, counts, strict=True)]


def require_rewards(batch: Batch) -> None:
    """Raises RunError where no group of any rank can be trained on; it quotes a reason, for which
    the ranks meet then (a collective)."""
    if any(batch.trainable_everywhere):
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
    parts = gather_objects([(r.total, r.utility) for r in scored])
    rewards = [reward for part in parts for reward in part]
    rng_of("shuffle", seed, step).shuffle(rewards)
    first = sum(len(part) for part in parts[: dist.get_rank()])
    for rollout, reward in zip(scored, rewards[first : first + len(scored)], strict=True):
        rollout.total, rollout.utility = reward
