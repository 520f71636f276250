"""Groups change ranks before an update, so that all ranks have about the same to compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed as dist

from caprl_native.distributed.world import gather_objects
from caprl_native.policy.model import Policy
from caprl_native.types import Group, Sample

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
        language = policy.family.language_layers(policy.hf).parameters()
        vision = [
            p for n, p in policy.hf.named_parameters() if policy.family.part_of(n) != "language"
        ]
        text = policy.config.get_text_config()
        width = text.num_attention_heads * (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        return cls(
            token=2.0 * sum(p.numel() for p in language),
            answer=2.0 * head.weight.numel(),
            pair=4.0 * text.num_hidden_layers * width,
            patch=2.0 * sum(p.numel() for p in vision) / (3 if policy.tower_is_frozen else 1),
        )

    def group(self, group: Group) -> float:
        """Of a group's shared-prefix row."""
        prompt = len(group.prompt)
        lengths = [len(r.token_ids) for r in group.scored]
        pairs = prompt**2 / 2 + sum(n * (prompt + n / 2) for n in lengths)
        answers = sum(lengths)
        return (
            self.token * (prompt + answers)
            + self.answer * answers
            + self.pair * pairs
            + self.patch * group.prompt.num_patches
        )


def balanced(groups: Sequence[Group], costs: Costs) -> list[Group]:
    """This rank's groups after the exchange (a collective), without what only an engine needs."""
    loads = gather_objects([costs.group(g) for g in groups])
    local_groups, rank = dict(enumerate(groups)), dist.get_rank()
    received: list[Group] = []
    for source, target, index in moves(loads):
        if rank == source:
            dist.send_object_list(
                [_light(local_groups.pop(index))], target, device=torch.device("cpu")
            )
        elif rank == target:
            box: list[Group | None] = [None]
            dist.recv_object_list(box, source, device=torch.device("cpu"))
            received += [group for group in box if group is not None]
    return [*local_groups.values(), *received]


def moves(loads: Sequence[Sequence[float]]) -> list[tuple[int, int, int]]:
    """Which groups go where, as (from rank, to rank, index at the first); `loads`: costs by rank.

    Again and again the fullest rank gives the emptiest the group that brings the two nearest to
    each other. No group moves twice, and none moves for less than `MIN_GAIN`.
    """
    kept = [dict(enumerate(row)) for row in loads]
    total = [sum(row) for row in loads]
    found: list[tuple[int, int, int]] = []
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


def _light(group: Group) -> Group:
    """Without decoded media and embedded bytes, which are of no use to an update."""
    prompt = dataclasses.replace(group.prompt, engine={})
    return Group(Sample(group.sample.id, (), ()), prompt, group.rollouts)
