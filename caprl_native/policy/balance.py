"""Groups change ranks before an update, so that all ranks have about the same to compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed as dist

from caprl_native.policy.model import Policy
from caprl_native.policy.parallel import gather_objects
from caprl_native.types import Group

WORTH = 0.02  # a move must take this share off the slower of its two ranks


@dataclasses.dataclass(frozen=True)
class Costs:
    """Floating-point operations of a forward pass; the backward pass has the same proportions."""

    token: float  # in the language model's weights
    pair: float  # of a query and a key, in all layers
    patch: float  # in the vision tower's weights

    @classmethod
    def of(cls, policy: Policy) -> Costs:
        counts = {"language": 0, "vision": 0, "projector": 0}
        embedding = policy.hf.get_input_embeddings().weight
        for name, parameter in policy.hf.named_parameters():
            if parameter is not embedding:
                counts[policy.family.part_of(name)] += parameter.numel()
        text = policy.config.get_text_config()
        width = text.num_attention_heads * (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        pair = 4.0 * text.num_hidden_layers * width
        return cls(2.0 * counts["language"], pair, 2.0 * (counts["vision"] + counts["projector"]))

    def group(self, group: Group) -> float:
        """Of a group's shared-prefix row."""
        prompt, patches = len(group.prompt), group.prompt.patches
        lengths = [len(r.token_ids) for r in group.scored]
        pairs = prompt**2 / 2 + sum(n * (prompt + n / 2) for n in lengths)
        seen = 0 if patches is None else len(patches)
        return self.token * (prompt + sum(lengths)) + self.pair * pairs + self.patch * seen


def balanced(groups: Sequence[Group], costs: Costs) -> list[Group]:
    """This rank's groups after the exchange (a collective), without what only an engine needs."""
    loads = gather_objects([costs.group(g) for g in groups])
    mine, rank = dict(enumerate(groups)), dist.get_rank()
    received = []
    for source, target, index in moves(loads):
        if rank == source:
            dist.send_object_list([_light(mine.pop(index))], target, device=torch.device("cpu"))
        elif rank == target:
            box: list[Group | None] = [None]
            dist.recv_object_list(box, source, device=torch.device("cpu"))
            received += box
    return [*mine.values(), *received]


def moves(loads: Sequence[Sequence[float]]) -> list[tuple[int, int, int]]:
    """Which groups go where, as (from rank, to rank, index at the first); `loads`: costs by rank.

    Again and again the fullest rank gives the emptiest the group that brings the two nearest to
    each other. No group moves twice, and none moves for less than `WORTH`.
    """
    kept = [dict(enumerate(row)) for row in loads]
    total = [sum(row) for row in loads]
    found = []
    while True:
        source, target = total.index(max(total)), total.index(min(total))
        gap = total[source] - total[target]
        best = min(kept[source].items(), key=lambda item: abs(gap / 2 - item[1]), default=None)
        if best is None or gap / 2 - abs(gap / 2 - best[1]) <= WORTH * total[source]:
            return found
        index, cost = best
        del kept[source][index]
        total[source] -= cost
        total[target] += cost
        found.append((source, target, index))


def _light(group: Group) -> Group:
    return dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, engine={}))
