"""What a reward is: captions in, scores out, and a reason where there is no score."""

from __future__ import annotations

import hashlib
import random
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


def seed_of(*key: int | str) -> int:
    """A 62-bit seed that depends on nothing but the key (Python's `hash` differs per process)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def rng_of(*key: int | str) -> random.Random:
    """A random generator of its own for the key."""
    return random.Random(seed_of(*key))
