"""What a sample's media become: pixels, and of a video what the processors are told of its times.

Sizes are only capped here, aspect kept: the trainer's processor and the engine's both get these
pixels and round them to their patches by the same rule, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.decoders import DecodeFailed, run_decoder
from caprl_native.data.sizes import fit
from caprl_native.data.timeline import sample_frames
from caprl_native.types import MediaRef, Sample

__all__ = [
    "DecodedImage",
    "DecodedVideo",
    "MediaError",
    "decode",
    "fit",
    "longest",
    "resized",
    "sample_frames",
]


class MediaError(Exception):
    """A medium cannot be used: of which sample, which file, and why."""

    def __init__(self, sample: str, name: str, reason: str) -> None:
        super().__init__(sample, name, reason)
        self.sample, self.name, self.reason = sample, name, reason

    def __str__(self) -> str:
        return f"sample {self.sample}: {self.name}: {self.reason}"


@dataclass(frozen=True)
class DecodedImage:
    """An RGB image."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size

    @property
    def nbytes(self) -> int:
        """Of its pixels."""
        return 3 * self.image.width * self.image.height


@dataclass(frozen=True)
class DecodedVideo:
    """`frames`: uint8 `[T, H, W, 3]`, RGB, T even. `metadata`: what vLLM and the processors take.

    Keys: `fps` (of the file, not of the frames taken), `duration` (s), `total_num_frames` (of the
    file), `frames_indices` (those taken), `video_backend`, `do_sample_frames` (False).

    The processors take a frame's time to be index / fps. So where the frames of a file do not come
    at a constant rate, `fps` is that of its clock (say, 12,800 ticks a second), and the others are
    counted in its ticks.

    A clip is described as a file of its own that holds nothing else: its first frame has index 0,
    so that processors, and thus captions, count its time from 0.
    """

    frames: np.ndarray
    metadata: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames.shape[2], self.frames.shape[1]

    @property
    def nbytes(self) -> int:
        """Of its pixels."""
        return int(self.frames.nbytes)

    @property
    def timestamps(self) -> list[float]:
        """Seconds from the start of the video, or of the clip, of each frame."""
        return [i / self.metadata["fps"] for i in self.metadata["frames_indices"]]

    @property
    def seconds(self) -> float:
        """How long the video, or the clip, lasts."""
        return float(self.metadata["duration"])


def decode(sample: Sample, config: MediaConfig) -> list[DecodedImage | DecodedVideo]:
    """The pixels of all media of a sample, in order. Raises `MediaError`."""
    return [_decode_one(sample, medium, config) for medium in sample.media]


def resized(
    decoded: DecodedImage | DecodedVideo, size: tuple[int, int]
) -> DecodedImage | DecodedVideo:
    """The image, or all frames, at another width and height."""
    if isinstance(decoded, DecodedImage):
        return DecodedImage(decoded.image.resize(size, Image.Resampling.BICUBIC))
    frames = [Image.fromarray(f).resize(size, Image.Resampling.BICUBIC) for f in decoded.frames]
    return DecodedVideo(np.stack([np.asarray(f) for f in frames]), decoded.metadata)


def longest(decoded: Sequence[DecodedImage | DecodedVideo]) -> float | None:
    """Seconds of the longest video (or clip) among these; None where there is none."""
    return max((d.seconds for d in decoded if isinstance(d, DecodedVideo)), default=None)


def _decode_one(
    sample: Sample, medium: MediaRef, config: MediaConfig
) -> DecodedImage | DecodedVideo:
    try:
        pixels, answer = run_decoder(medium, config)
    except DecodeFailed as error:
        raise MediaError(sample.id, medium.name, str(error)) from None
    if answer.metadata is None:
        return DecodedImage(Image.fromarray(pixels))
    return DecodedVideo(pixels, answer.metadata)
