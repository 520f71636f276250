"""A caption on its way through the terms of a reward."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from caprl_native.rewards.base import Caption, Score
from caprl_native.types import Rollout


@dataclass
class Open:
    """A caption whose scores are to come; `scores` is None until the terms have it."""

    rollout: Rollout
    caption: Caption
    is_local: bool
    scores: dict[str, Future[Score]] | None = None
