"""Numbers of a step that carry how they are reduced: over micro-batches, over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from caprl_native.config.flat import FlatConfig
from caprl_native.distributed.world import gather_objects
from caprl_native.types import Group, Rollout

Number = float | Tensor  # a tensor of one element stays on its device until the reduction


class Metric(Protocol):
    """A piece of a number; pieces of one number add up with `+`, in any grouping."""

    def __add__(self, other: Self) -> Self: ...

    def plain(self) -> Self:
        """Without tensors, to be sent to other ranks."""
        ...

    @property
    def value(self) -> float | None:
        """The number; None where nothing was counted."""
        ...


@dataclass(frozen=True)
class Sum:
    """Shares of a number that the whole batch's denominator has been divided out of, or counts."""

    total: Number

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def plain(self) -> Sum:
        return Sum(_plain(self.total))

    @property
    def value(self) -> float:
        return _plain(self.total)


@dataclass(frozen=True)
class Norm:
    """The length of many vectors together, of which each rank has parts.

    `squared`: `[N]`, of each vector the square of its part's length; these add up. Roots are taken
    in float32 and one by one first, as torch does for gradients in shards.
    """

    squared: Tensor

    def __add__(self, other: Norm) -> Norm:
        return Norm(self.squared + other.squared)

    def plain(self) -> Norm:
        return Norm(self.squared.cpu())

    @property
    def value(self) -> float:
        return torch.linalg.vector_norm(self.squared.float() ** 0.5).item()


@dataclass(frozen=True)
class Max:
    """The largest of all pieces."""

    largest: Number

    def __add__(self, other: Max) -> Max:
        if isinstance(self.largest, Tensor) and isinstance(other.largest, Tensor):
            return Max(torch.maximum(self.largest, other.largest))
        return Max(max(_plain(self.largest), _plain(other.largest)))

    def plain(self) -> Max:
        return Max(_plain(self.largest))

    @property
    def value(self) -> float:
        return _plain(self.largest)


@dataclass(frozen=True)
class Mean:
    """The mean of values, each of which counts once. They are kept: a sum of partial sums would
    depend, in its last bit, on the number of ranks."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        return cls(tuple(values))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.values + other.values)

    def plain(self) -> Mean:
        return self

    @property
    def value(self) -> float | None:
        return sum(self.values) / len(self.values) if self.values else None


def _plain(number: Number) -> float:
    return number.item() if isinstance(number, Tensor) else number


def added(pieces: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Pieces merged by name; one that lacks a name adds nothing to it."""
    total: dict[str, Metric] = {}
    for piece in pieces:
        for name, metric in piece.items():
            total[name] = total[name] + metric if name in total else metric
    return total


def over_ranks(local: Mapping[str, Metric]) -> dict[str, Metric]:
    """The pieces of all ranks, merged (a collective)."""
    return added(gather_objects(plain(local)))


def plain(local: Mapping[str, Metric]) -> dict[str, Metric]:
    """Without tensors, to be sent to other ranks."""
    return {name: metric.plain() for name, metric in local.items()}


def over_updates(updates: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Of a batch's optimizer steps: the largest where that is what counts, else the mean."""
    totals: dict[str, Metric] = {}
    for metrics in updates:
        for name, metric in metrics.items():
            share = metric if isinstance(metric, Max) else Sum((metric.value or 0.0) / len(updates))
            totals[name] = totals[name] + share if name in totals else share
    return totals


def numbers(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """What is logged; a number of which nothing was counted is left out."""
    return {name: value for name, m in metrics.items() if (value := m.value) is not None}


def group_metrics(
    groups: Sequence[Group], terms: Sequence[str], flat: FlatConfig | None = None
) -> dict[str, Metric]:
    """This rank's part of what there is to know of sampled groups.

    `reward/NAME/mean` of each of the `terms`, over the rollouts that it applies to, and
    `reward/NAME/PART` of what it says to be made of; `reward/std`:
    mean over groups of the deviation (unbiased) within; `reward/zero_std_groups`: how many groups
    carry no gradient (`flat` says when); `data/failed_rewards`: rollouts that got no reward.
    """
    rollouts = [r for g in groups for r in g.rollouts]
    scored = [r for r in rollouts if r.total is not None]
    spreads = [s for g in groups if (s := _spread(g, flat or FlatConfig())) is not None]
    return {
        "reward/total/mean": Mean.of(r.total for r in scored if r.total is not None),
        **{f"reward/{name}/mean": _term(name, scored) for name in terms},
        **{f"reward/{part}": mean for part, mean in _parts(scored).items()},
        "reward/std": Mean.of(std for std, _ in spreads),
        "reward/zero_std_groups": Sum(sum(flat for _, flat in spreads)),
        "completion/length_mean": Mean.of(len(r.token_ids) for r in rollouts),
        "completion/truncated_frac": Mean.of(r.finish_reason == "length" for r in rollouts),
        "data/failed_rewards": Sum(len(rollouts) - len(scored)),
    }


def _term(name: str, scored: Sequence[Rollout]) -> Mean:
    return Mean.of(r.rewards[name] for r in scored if name in r.rewards)


def _parts(scored: Sequence[Rollout]) -> dict[str, Mean]:
    """Of what the terms are made of, by "term/part", in the order of their first appearance."""
    names = dict.fromkeys(name for r in scored for name in r.parts)
    return {name: Mean.of(r.parts[name] for r in scored if name in r.parts) for name in names}


def _spread(group: Group, flat: FlatConfig) -> tuple[float, bool] | None:
    """Deviation of a group's rewards, and whether it is flat; None below two."""
    rewards = torch.tensor([r.total for r in group.scored], dtype=torch.float64)
    if len(rewards) < 2:
        return None
    return rewards.std().item(), flat.holds_of(group)
