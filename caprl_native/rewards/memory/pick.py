"""Which of a group's memories goes into the history of its video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from caprl_native.rewards.memory.output import WrongForm, read_memory
from caprl_native.types import Rollout

HistoryPick = Literal["first_valid", "best", "none_if_wrong"]
RIGHT, WRONG_FORM, NOT_JUDGED = 0, 1, 2  # states of a rollout


@dataclass(frozen=True)
class Remembered:
    """A rollout's memory. `state`: all right, another form, or a judge that failed."""

    state: int
    text: str
    reward: float = 0.0
    correct: bool = False


def picked_memory(group: Sequence[Remembered], how: HistoryPick = "first_valid") -> str:
    """The text that is kept; "" where the group has none.

    Of rollouts of state 0: the first; the one with the highest reward (the first of equals); or the
    best of the correct ones.
    """
    sound = [one for one in group if one.state == RIGHT and one.text]
    if how == "none_if_wrong":
        sound = [one for one in sound if one.correct]
    if how != "first_valid":
        sound.sort(key=lambda one: -one.reward)
    return sound[0].text if sound else ""


def remembered(rollout: Rollout, term: str) -> Remembered:
    """What a rollout remembers, by the rewards that the term of this name gave it."""
    try:
        text = read_memory(rollout.text)
    except WrongForm:
        return Remembered(WRONG_FORM, "")
    if rollout.total is None:
        return Remembered(NOT_JUDGED, text)
    correct = rollout.parts.get(f"{term}/correct", 0.0) > 0
    return Remembered(RIGHT, text, rollout.total, correct)
