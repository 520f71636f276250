"""When the frames of a video are shown, and which of them a model is given.

Times are whole ticks of the file's time base. A constant rate is recognised, and then a frame's
time is its number / rate; otherwise every frame has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from caprl_native.config.media import MediaConfig
from caprl_native.data.sizes import Unusable
from caprl_native.types import MediaRef

_ROUNDING = 5e-4  # seconds: annotated times are rounded to milliseconds
_MAX_FPS = 1000
_MADE_UP = 0.05  # the share of frames whose times do not grow, where none is to be believed
BACKEND = "pyav"

Stamp = tuple[int | None, int | None]  # ticks at which a frame is shown, and was decoded


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in the order in which they are shown.

    `ticks`: int64 `[n]`, not decreasing, 0 at the start of the video; `end`: the tick at which the
    last frame ends; `tick`: its seconds; `rates`: what the file says of its frames per second.
    """

    ticks: np.ndarray
    end: int
    tick: Fraction
    rates: tuple[Fraction, ...] = ()

    def constant_rate(self) -> float | None:
        """Frames per second, where each frame is shown at its number / rate, but for rounding."""
        n = len(self.ticks)
        span = int(self.ticks[-1] - self.ticks[0]) * self.tick if n > 1 else Fraction(0)
        rates = [*self.rates, *([(n - 1) / span] if span else [])]
        seconds = self.ticks * float(self.tick)
        for rate in rates:
            if not 0 < rate <= _MAX_FPS:
                continue
            fps = float(rate)
            # Where the first frame is later than others of the file, players show it later.
            first = seconds[0] if seconds[0] < 1 / fps else 0.0
            error = np.abs(seconds - first - np.arange(n) / fps).max()
            if error <= min(1.01 * float(self.tick), 0.25 / fps):
                return fps
        return None


def true_times(stamps: Sequence[Stamp], step: int) -> list[int]:
    """Ticks of decoded frames in the order in which they are shown, by the rule of ffmpeg.

    Some containers have no times of frames but of decoding, and what is made up from these goes
    back and forth. Of the two, the one that has failed to grow less often is taken. A frame without
    a time follows the one before as that did its own, or after `step` ticks.
    """
    made_up = _faults([s[0] for s in stamps]) > max(
        _MADE_UP * len(stamps), _faults([s[1] for s in stamps])
    )
    times: list[int] = []
    last: list[int | None] = [None, None]
    faults = [0, 0]
    for shown, decoded in stamps:
        for i, (time, other) in enumerate(((shown, decoded), (decoded, shown))):
            before = last[i]
            faults[i] += time is not None and before is not None and time <= before
            last[i] = other if time is None else time
        by_decoding = made_up or (faults[0] > faults[1] and decoded is not None)
        time = decoded if by_decoding else shown
        if time is None and not made_up:
            time = decoded
        if time is None:
            time = _following(times, step) if times else shown or 0
        times.append(time)
    return times


def _following(times: Sequence[int], step: int) -> int:
    past = times[-1] - times[-2] if len(times) > 1 else 0
    return times[-1] + (past if past > 0 else step)


def _faults(times: Sequence[int | None]) -> int:
    """How often times do not grow; all are faulty where none is known."""
    known = [t for t in times if t is not None]
    return sum(b <= a for a, b in pairwise(known)) if known else len(times)


@dataclass(frozen=True)
class Chosen:
    """`numbers`: the frames that are taken, by their place in the timeline; `metadata`: of them."""

    numbers: list[int]
    metadata: dict[str, Any]


def choose(times: Timeline, medium: MediaRef, config: MediaConfig) -> Chosen:
    """The frames of a video, or of the clip that `medium` chooses. Raises `Unusable`."""
    fps = times.constant_rate()
    if fps is not None:
        return choose_by_rate(len(times.ticks), fps, medium, config)
    return _choose_by_times(times, medium, config)


def choose_by_rate(total: int, fps: float, medium: MediaRef, config: MediaConfig) -> Chosen:
    """The frames of a video of constant rate. A clip is from the frame that its start shows."""
    start, end = _bounds(medium, total / fps)
    first = min(max(math.floor((start + _slack(fps)) * fps), 0), total - 1)
    stop = min(max(math.ceil((end - _slack(fps)) * fps), first + 1), total)
    count = stop - first
    indices = sample_frames(count, fps, config)
    return Chosen([first + i for i in indices], _metadata(fps, count / fps, count, indices))


def _choose_by_times(times: Timeline, medium: MediaRef, config: MediaConfig) -> Chosen:
    """Evenly spaced moments, and the frame that is shown at each; of a still, at its later ones.

    The processors count time as index / fps: fps is that of the time base, indices are ticks.
    """
    tick = float(times.tick)
    start, end = _bounds(medium, times.end * tick)
    zero = round(start / tick)
    slack = _slack(len(times.ticks) / (times.end * tick)) / tick
    first = max(int(np.searchsorted(times.ticks, start / tick + slack, "right")) - 1, 0)
    stop = max(int(np.searchsorted(times.ticks, end / tick - slack, "left")), first + 1)
    shown = np.maximum(times.ticks[first:stop] - zero, 0)
    duration = end - start
    count = len(sample_frames(stop - first, (stop - first) / duration, config))
    moments = np.linspace(shown[0], shown[-1], count).round().astype(np.int64)
    taken = np.searchsorted(shown, moments, "right") - 1
    again = np.diff(taken, prepend=-1) == 0
    indices = np.where(again, moments, shown[taken]).tolist()
    total = max(round(duration / tick), indices[-1] + 1)
    metadata = _metadata(1 / tick, duration, total, indices)
    return Chosen((first + taken).tolist(), metadata)


def _slack(fps: float) -> float:
    return min(_ROUNDING, 0.25 / fps)


def _bounds(medium: MediaRef, length: float) -> tuple[float, float]:
    """Start and end in seconds; an end after the video's is the video's."""
    start = medium.start or 0.0
    end = length if medium.end is None else medium.end
    if not 0 <= start < length:
        raise Unusable(f"the clip starts at {start:g} s, outside of the video's {length:.2f} s")
    if not start < end:
        raise Unusable(f"the clip ends at {end:g} s, not after its start at {start:g} s")
    return start, min(end, length)


def _metadata(fps: float, duration: float, total: int, indices: list[int]) -> dict[str, Any]:
    return {
        "fps": fps,
        "duration": duration,
        "total_num_frames": total,
        "frames_indices": indices,
        "video_backend": BACKEND,
        "do_sample_frames": False,
    }


def sample_frames(total: int, fps: float, config: MediaConfig) -> list[int]:
    """Indices of an even number of frames, evenly spaced from the first to the last.

    By `video_frames` as many as `video_fps` gives, or `video_max_frames` of any video that has
    them. The processors join frames in pairs; a video of one frame gives it twice.
    """
    uniform = config.video_frames == "uniform"
    wanted = config.video_max_frames if uniform else total / fps * config.video_fps
    wanted = min(max(wanted, config.video_min_frames), config.video_max_frames, total)
    count = 2 * int(wanted / 2)
    if count < config.video_min_frames and count + 2 <= min(total, config.video_max_frames):
        count += 2
    if count < 2:
        return [0, total - 1]
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
