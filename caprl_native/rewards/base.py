"""What a reward is: captions in, scores out, and a reason where there is no score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from caprl_native.types import Sample


@dataclass(frozen=True)
class Caption:
    """One caption to score. `key` names it among all captions of a run, and seeds its draws."""

    sample: Sample
    text: str
    tokens: int
    key: tuple[int | str, ...]


@dataclass
class Score:
    """A reward, or the reason why there is none; never a zero in place of one that failed."""

    value: float | None
    failure: str | None = None
    reading: list[dict[str, Any]] = field(default_factory=list)


class Reward(Protocol):
    def __call__(self, captions: Sequence[Caption]) -> list[Score]:
        """A score for each caption, in order."""
        ...
