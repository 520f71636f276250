"""The reward of memories, as pure functions of what was judged (TaskMem, phase one).

    valid   = faces well named, at most memory_token_threshold tokens, and a label of 1
    correct = correctness > 0.5 and valid
    R       = (correct_reward * correctness if correct, else wrong_reward)
              + usefulness_scale * bonus + think_penalty(thinking tokens)

A group's correct rollouts are ranked; the bonus is correct_reward times the rank score 1 - p / (M -
1) of place p among M (0: the most useful), spread over 0..1 of the group; 0 for a lone one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Parameters(Protocol):
    """The numbers of the formula; what each means stands in the options that have them."""

    think_length_threshold: int
    think_penalty: float
    usefulness_scale: float
    memory_token_threshold: int
    correct_reward: float
    wrong_reward: float
    format_penalty: float
    failure_penalty: float


@dataclass(frozen=True)
class Judged:
    """What is known of a rollout. `correctness` and `label`: 0 to 1; None: nobody was asked, as it
    could not have been correct."""

    description: str | None  # None: the output has another form
    loose_faces: bool = False
    tokens: int = 0  # from the mark that closes the thoughts to the end
    think_tokens: int = 0
    correctness: float | None = None
    label: float | None = None

    def may_be_valid(self, p: Parameters) -> bool:
        """Whether its form allows that it is valid, whatever the judges say."""
        short = self.tokens <= p.memory_token_threshold
        return self.description is not None and not self.loose_faces and short

    def is_valid(self, p: Parameters) -> bool:
        return self.may_be_valid(p) and self.label is not None and self.label > 0.5

    def is_correct(self, p: Parameters) -> bool:
        return self.is_valid(p) and self.correctness is not None and self.correctness > 0.5


@dataclass(frozen=True)
class Reward:
    """The reward, and what it is made of."""

    total: float
    task: float = 0.0
    useful: float = 0.0
    think: float = 0.0


def rank_scores(ranking: Sequence[int]) -> dict[int, float]:
    """Of each entry of a ranking, the best first: 1 down to 0; 1 for a lone one."""
    last = max(1, len(ranking) - 1)
    return {entry: 1 - place / last for place, entry in enumerate(ranking)}


def bonuses(scores: Mapping[int, float], correct_reward: float) -> dict[int, float]:
    """correct_reward (x - min) / (max - min) of each score x; 0 where all are equal."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    spread = high - low
    return {i: correct_reward * (x - low) / spread if spread else 0.0 for i, x in scores.items()}


def think_penalty(tokens: int, threshold: int, penalty: float) -> float:
    """0 up to `threshold` tokens, then linear down to `penalty` at twice as many, and beyond."""
    return penalty * min(1.0, max(0.0, (tokens - threshold) / threshold))


def group_rewards(
    group: Sequence[Judged], scores: Mapping[int, float], p: Parameters
) -> list[Reward]:
    """The rewards of a group. `scores`: the rank scores of its correct rollouts, by their places in
    the group; empty where none were ranked.

    An output of another form earns `format_penalty`; with a `failure_penalty`, that much less than
    the least of the others, or than 0 where there are none.
    """
    bonus = bonuses(scores, p.correct_reward)
    found = {
        i: _reward(judged, bonus.get(i, 0.0), p)
        for i, judged in enumerate(group)
        if judged.description is not None
    }
    worst = Reward(p.format_penalty, p.format_penalty)
    if p.failure_penalty:
        least = min((reward.total for reward in found.values()), default=0.0)
        worst = Reward(least + p.failure_penalty, p.format_penalty)
    return [found.get(i, worst) for i in range(len(group))]


def _reward(judged: Judged, bonus: float, p: Parameters) -> Reward:
    task = p.wrong_reward
    if judged.is_correct(p):
        task = p.correct_reward * (judged.correctness or 0.0)
    useful = p.usefulness_scale * bonus
    think = think_penalty(judged.think_tokens, p.think_length_threshold, p.think_penalty)
    return Reward(task + useful + think, task, useful, think)
