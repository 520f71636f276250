"""The timestamp reward: does a video caption carry well-formed, ordered time brackets?"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
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
    ShapingOptions,
    finished,
    missing,
)

# [mm:ss] or [mm:ss - mm:ss]; one to three minute digits, two second digits, a plain hyphen.
_BRACKET = r"\[(\d{1,3}):(\d{2})(?:\s*-\s*(\d{1,3}):(\d{2}))?\]"
_DIGITS = {
    "ascii": re.compile(_BRACKET.replace(r"\d", "[0-9]")),
    "any": re.compile(_BRACKET),
}

_SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=[。！？])|\n")
_SAYS_SOMETHING = 4  # letters or digits: a shorter text is no statement


class TimestampsOptions(ShapingOptions):
    """Well-formed, ordered time brackets; videos only."""

    type: Literal["timestamps"] = "timestamps"
    rule: Literal["checked", "release", "density"] = Field(
        "checked",
        description='"checked": stamps within the video, in order, each on a statement of its own, '
        'enough of them; as published, "release": half valid share, half order; "density": the '
        "released server's rule.",
    )
    share: float = Field(
        0.3, gt=0, le=1, description="checked: stamps for this share of the sentences are enough."
    )
    min_brackets: int = Field(
        3, ge=1, description="density: brackets that a caption should have at least."
    )
    max_minute: int = Field(
        599, ge=0, description="release, density: a larger minute makes a bracket invalid."
    )


@TERMS.register(TimestampsOptions)
class Timestamps(RewardTerm[TimestampsOptions]):
    def submit(self, caption: Caption) -> Future[Score]:
        if caption.sample.modality != "video":
            return finished(NOT_APPLICABLE)
        if self.options.rule == "checked":
            return finished(self._checked(caption))
        score = timestamp_reward(
            caption.text,
            rule=self.options.rule,
            min_brackets=self.options.min_brackets,
            max_minute=self.options.max_minute,
        )
        return finished(score.value)

    def _checked(self, caption: Caption) -> Score:
        if caption.sample.seconds is None:
            return missing('how long its video is is not known; rule = "release" does not ask')
        return Score(
            checked_timestamp_reward(caption.text, caption.sample.seconds, self.options.share)
        )


def checked_timestamp_reward(text: str, seconds: float, share: float = 0.3) -> float:
    """How well a caption of a video of `seconds` is stamped, 0..1: order times number.

    A stamp is good when it is well-formed and ends no later than the video does, rounded up to the
    second. Order: the share of all brackets that are good and whose starts never decrease (the
    longest such row of them). Number: of those that open a statement of their own at a time of its
    own, all but the first, over all but one of those wanted: `share` of the caption's sentences,
    two at least, and no more than the video has seconds. So one bracket is worth nothing: it puts
    nothing in order; nor is one range for all sentences, nor are brackets in a row.
    """
    end = math.ceil(seconds)
    brackets = list(_DIGITS["ascii"].finditer(text))
    if not brackets:
        return 0.0
    ends_at = [b.start() for b in brackets[1:]] + [len(text)]
    starts, opening = [], []
    for bracket, stop in zip(brackets, ends_at, strict=True):
        times = _times(bracket)
        if times is None or times[-1] > end:
            continue
        starts.append(times[0])
        if _letters(text[bracket.end() : stop]) >= _SAYS_SOMETHING:
            opening.append(times[0])
    sentences = sum(_letters(s) >= _SAYS_SOMETHING for s in _SENTENCE_END.split(_unstamped(text)))
    wanted = max(2, min(math.ceil(share * sentences), end + 1))
    number = min(1.0, max(0, _longest_row(opening, strict=True) - 1) / (wanted - 1))
    return _longest_row(starts, strict=False) / len(brackets) * number


def _unstamped(text: str) -> str:
    return _DIGITS["ascii"].sub("", text)


def _letters(text: str) -> int:
    return sum(c.isalnum() for c in text)


def _longest_row(times: Sequence[int], *, strict: bool) -> int:
    """How many of the times, at most, stand in increasing order (`strict`), or never decrease."""
    place = bisect_left if strict else bisect_right
    tails: list[int] = []  # of the rows of each length, the one that ends earliest
    for time in times:
        at = place(tails, time)
        tails[at : at + 1] = [time]
    return len(tails)


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
    max_minute: int = 599,
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
    times = _times(bracket, max_minute)
    return times[0] if times else None


def _times(bracket: re.Match[str], max_minute: int = 999) -> list[int] | None:
    """Start, and end if it has one, in seconds; None if the bracket is not valid."""
    times = []
    for minute, second in (bracket.group(1, 2), bracket.group(3, 4)):
        if minute is None:
            continue
        if int(second) > 59 or int(minute) > max_minute:
            return None
        times.append(60 * int(minute) + int(second))
    return times if times[-1] >= times[0] else None
