"""Groups change ranks before an update, so that all ranks have about the same to compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed as dist

from caprl_native.distributed.world import gather_objects
from caprl_native.policy.model import Policy
from caprl_native.policy.parcels import Parcel, exchange
from caprl_native.types import Group

Move = tuple[int, int, int]  # from rank, to rank, index at the first
MIN_GAIN = 0.02  # a move must take this share off the slower of its two ranks


@dataclasses.dataclass(frozen=True)
class Costs:
    """Floating-point operations of a forward pass, roughly; a backward pass takes twice as many."""

    token: float  # in the language layers' weights
    answer: float  # of a response token, in the LM head
    pair: float  # of a query and a key, in all layers
    patch: float  # in the vision tower's weights; less where it has no backward pass

    @classmethod
    def of(cls, policy: Policy) -> Costs:
        head = policy.hf.get_output_embeddings()
        family, hf = policy.family, policy.hf
        language = sum(p.numel() for p in family.language_layers(hf).parameters())
        experts = sum(p.numel() for unit in family.experts(hf) for p in unit.parameters())
        unused = experts * (1.0 - family.active_share(policy.config))
        vision = [
            p for n, p in policy.hf.named_parameters() if policy.family.part_of(n) != "language"
        ]
        text = policy.config.get_text_config()
        width = text.num_attention_heads * (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        return cls(
            token=2.0 * (language - unused),
            answer=2.0 * head.weight.numel(),
            pair=4.0 * text.num_hidden_layers * width,
            patch=2.0 * sum(p.numel() for p in vision) / (3 if policy.tower_is_frozen else 1),
        )

    def group(self, shape: GroupShape) -> float:
        """Of a group's shared-prefix row."""
        prompt, lengths = shape.prompt, shape.responses
        pairs = prompt**2 / 2 + sum(n * (prompt + n / 2) for n in lengths)
        answers = sum(lengths)
        return (
            self.token * (prompt + answers)
            + self.answer * answers
            + self.pair * pairs
            + self.patch * shape.patches
        )


@dataclasses.dataclass(frozen=True)
class GroupShape:
    """How much there is of a group. Every rank knows those of all groups."""

    prompt: int  # tokens
    responses: tuple[int, ...]  # tokens of each scored one
    patches: int
    patch_pairs: int  # in one frame
    has_media: bool
    nbytes: int  # of its parcel

    @classmethod
    def of(cls, group: Group, nbytes: int) -> GroupShape:
        prompt, lengths = group.prompt, tuple(len(r.token_ids) for r in group.scored)
        patches, pairs = prompt.num_patches, prompt.patch_pairs
        return cls(len(prompt), lengths, patches, pairs, prompt.media is not None, nbytes)


Shares = list[list[GroupShape]]  # by rank


def balanced(
    parts: Sequence[Sequence[Group]], costs: Costs, device: torch.device
) -> tuple[list[list[Group]], list[Shares]]:
    """This rank's groups of each mini-batch after the exchange, and the shapes of all ranks'.

    Two collectives: one tells the shapes, the other moves groups. Without a move there is no other.
    """
    parcels = [[Parcel(group) for group in part] for part in parts]
    shapes = [
        [GroupShape.of(g, p.nbytes) for g, p in zip(part, packed, strict=True)]
        for part, packed in zip(parts, parcels, strict=True)
    ]
    told = [list(part) for part in zip(*gather_objects(shapes), strict=True)]
    plans = [moves([[costs.group(s) for s in row] for row in shares]) for shares in told]
    received = _exchanged(parcels, told, plans, device)
    kept = [
        [g for i, g in enumerate(part) if (dist.get_rank(), i) not in {m[::2] for m in plan}]
        for part, plan in zip(parts, plans, strict=True)
    ]
    groups = [ours + theirs for ours, theirs in zip(kept, received, strict=True)]
    return groups, [moved(shares, plan) for shares, plan in zip(told, plans, strict=True)]


def moved(shares: Shares, plan: Sequence[Move]) -> Shares:
    """The shapes by rank once the groups have moved, in the order that each rank has them in."""
    gone = {(source, index) for source, _, index in plan}
    kept = [
        [s for i, s in enumerate(row) if (rank, i) not in gone] for rank, row in enumerate(shares)
    ]
    for source, target, index in plan:
        kept[target].append(shares[source][index])
    return kept


def _exchanged(
    parcels: Sequence[Sequence[Parcel]],
    told: Sequence[Shares],
    plans: Sequence[Sequence[Move]],
    device: torch.device,
) -> list[list[Group]]:
    """What comes to this rank for each mini-batch, in the order of its moves (a collective)."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found: list[list[Group]] = [[] for _ in plans]
    if not any(plans):
        return found
    outgoing: list[list[Parcel]] = [[] for _ in range(world)]
    incoming: list[list[int]] = [[] for _ in range(world)]
    for packed, shares, plan in zip(parcels, told, plans, strict=True):
        for source, target, index in plan:
            if source == rank:
                outgoing[target].append(packed[index])
            if target == rank:
                incoming[source].append(shares[source][index].nbytes)
    arrived = [iter(groups) for groups in exchange(outgoing, incoming, device)]
    for part, plan in zip(found, plans, strict=True):
        part += [next(arrived[source]) for source, target, _ in plan if target == rank]
    return found


def moves(loads: Sequence[Sequence[float]]) -> list[Move]:
    """Which groups go where; `loads`: costs by rank.

    Again and again the fullest rank gives the emptiest the group that brings the two nearest to
    each other. No group moves twice, and none moves for less than `MIN_GAIN`.
    """
    kept = [dict(enumerate(row)) for row in loads]
    total = [sum(row) for row in loads]
    found: list[Move] = []
    while True:
        source, target = total.index(max(total)), total.index(min(total))
        gap = total[source] - total[target]
        best = min(kept[source].items(), key=lambda item: abs(gap / 2 - item[1]), default=None)
        if best is None or gap / 2 - abs(gap / 2 - best[1]) <= MIN_GAIN * total[source]:
            return found
        index, cost = best
        del kept[source][index]
        total[source] -= cost
        total[target] += cost
        found.append((source, target, index))
