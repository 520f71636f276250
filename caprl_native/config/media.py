"""What becomes of images and videos before a model sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.config.fields import Table


class MediaConfig(Table):
    image_min_pixels: int = Field(
        4 * 32 * 32, ge=1, description="Smaller images are enlarged to this many pixels."
    )
    image_max_pixels: int = Field(
        1280 * 32 * 32, description="Larger images are reduced to this many pixels."
    )
    video_frames: Literal["fps", "uniform"] = Field(
        "fps",
        description="Frames by the second, `video_fps` within the limits below, or evenly spaced "
        '("uniform"): `video_max_frames` whatever the length, or all that there are.',
    )
    video_fps: float = Field(2.0, gt=0, description='Frames taken per second of video, by "fps".')
    video_min_frames: int = Field(
        4, ge=1, description="At least this many frames per video, where it has them."
    )
    video_max_frames: int = Field(
        128, description="At most this many frames per video, evenly spaced."
    )
    video_frame_pixels: int = Field(
        256 * 32 * 32, ge=1, description="At most this many pixels per frame."
    )
    video_total_pixels: int = Field(
        12000 * 32 * 32 * 2,
        ge=1,
        description="At most this many pixels in all frames together, so that long videos fit.",
    )
    tiles_min: int = Field(
        1, ge=1, description="Where the family cuts images into tiles (InternVL): at least so many."
    )
    tiles_max: int = Field(
        12, ge=1, description="Where the family cuts images into tiles: at most so many."
    )
    thumbnail: bool = Field(
        True, description="Whether the whole image follows its tiles, as one more, where it has 2."
    )
    max_per_prompt: int = Field(
        8, ge=1, description="At most this many images, or videos, in one prompt."
    )
    fit: Literal["reduce", "drop"] = Field(
        "reduce",
        description="What becomes of media that make a prompt longer than data.max_prompt_tokens: "
        "reduced until it fits, or left out with their sample.",
    )
    decode_seconds: float = Field(
        120.0,
        gt=0,
        description="A file that takes more seconds of a core to decode is skipped; so is one that "
        "takes 10 times as many, and a minute, by the clock.",
    )
    decode_gib: float = Field(
        4.0,
        ge=0.5,
        description="A file that needs more memory than this to decode, in GiB, is skipped.",
    )
