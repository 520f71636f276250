"""The timestamp reward: does a video caption carry well-formed, ordered time brackets?"""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from caprl_native.rewards.base import (
    NOT_APPLICABLE,
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermOptions,
    finished,
)

# [mm:ss] or [mm:ss - mm:ss]; one to three minute digits, two second digits, a plain hyphen.
_BRACKET = r"\[(\d{1,3}):(\d{2})(?:\s*-\s*(\d{1,3}):(\d{2}))?\]"
_DIGITS = {
    "ascii": re.compile(_BRACKET.replace(r"\d", "[0-9]")),
    "any": re.compile(_BRACKET),
}


class TimestampsOptions(TermOptions):
    """Well-formed, ordered time brackets; videos only."""

    type: Literal["timestamps"] = "timestamps"
    rule: Literal["release", "density"] = Field(
        "release",
        description='"release": half valid share, half order; "density": the released server\'s '
        "rule.",
    )
    min_brackets: int = Field(
        3, ge=1, description="density: brackets that a caption should have at least."
    )
    max_minute: int = Field(
        999, ge=0, description="density: a larger minute makes a bracket invalid."
    )


@TERMS.register(TimestampsOptions)
class Timestamps(RewardTerm[TimestampsOptions]):
    def submit(self, caption: Caption) -> Future[Score]:
        if caption.sample.modality != "video":
            return finished(NOT_APPLICABLE)
        score = timestamp_reward(
            caption.text,
            rule=self.options.rule,
            min_brackets=self.options.min_brackets,
            max_minute=self.options.max_minute,
        )
        return finished(score.value)


@dataclass(frozen=True)
class TimestampScore:
    """`value` in 0..1; brackets found; valid ones; whether there are some, starting in order."""

    value: float
    n_all: int
    n_valid: int
    chronological: bool


def timestamp_reward(
    text: str | None,
    rule: Literal["release", "density"] = "release",
    min_brackets: int = 3,
    max_minute: int = 999,
    digits: Literal["ascii", "any"] = "ascii",
) -> TimestampScore:
    """Score the time brackets of a caption.

    A bracket is valid when seconds are below 60, minutes at most `max_minute` and the end is not
    before the start. The valid ones are chronological when their starts never decrease.

    - `release` (CapRL++ release notes): half the valid share, half order; 0 when none is valid.
    - `density` (the released server): the valid share times
      (0.45 n_valid / min_brackets, at most 0.45, + 0.25 + 0.30 if in order).

    `digits="any"` also takes other scripts' digits, as the released server does. Raises ValueError
    for an unknown rule. A text without brackets, or None, scores 0.
    """
    if rule not in ("release", "density"):
        raise ValueError(f"unknown timestamp rule {rule!r}; valid: release, density")
    brackets = list(_DIGITS[digits].finditer(text or ""))
    starts = [s for s in (_valid_start(b, max_minute) for b in brackets) if s is not None]
    n_all, n_valid = len(brackets), len(starts)
    if not n_valid:
        return TimestampScore(0.0, n_all, 0, False)
    ordered = all(a <= b for a, b in zip(starts, starts[1:], strict=False))
    share = n_valid / n_all
    if rule == "release":
        value = 0.5 * share + 0.5 * ordered
    else:
        coverage = min(1.0, n_valid / max(min_brackets, 1))
        value = share * (0.45 * coverage + 0.25 + 0.30 * ordered)
    return TimestampScore(value, n_all, n_valid, ordered)


def _valid_start(bracket: re.Match[str], max_minute: int) -> int | None:
    """Start of a bracket in seconds; None if the bracket is not valid."""
    times = []
    for minute, second in (bracket.group(1, 2), bracket.group(3, 4)):
        if minute is None:
            continue
        if int(second) > 59 or int(minute) > max_minute:
            return None
        times.append(60 * int(minute) + int(second))
    return times[0] if times[-1] >= times[0] else None
