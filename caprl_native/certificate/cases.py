"""The prompts that a certificate compares: an image, several, a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo, decode
from caprl_native.types import MediaRef, Sample

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")
ASKED = "Describe what is to be seen."

Media = tuple[DecodedImage | DecodedVideo, ...]


@dataclass(frozen=True)
class Case:
    """A prompt's media, as they were decoded."""

    name: str
    decoded: Media

    @property
    def sample(self) -> Sample:
        """One user turn: the media, then a text."""
        kinds = ["image" if isinstance(one, DecodedImage) else "video" for one in self.decoded]
        content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": ASKED}]
        media = tuple(MediaRef("image" if kind == "image" else "video", "") for kind in kinds)
        return Sample(self.name, media, ({"role": "user", "content": content},))


def cases(files: Sequence[str], media: MediaConfig, *, mixes: bool) -> list[Case]:
    """Of these files, in their order; without any, of noise and a moving gradient made here.

    `mixes`: whether a prompt may have images and videos.

    Raises:
        MediaError: a file cannot be decoded.
    """
    decoded = [_decoded(file, media) for file in files] if files else _own()
    images = [one for one in decoded if isinstance(one, DecodedImage)]
    videos = [one for one in decoded if isinstance(one, DecodedVideo)]
    made = [Case("image", tuple(images[:1]))] if images else []
    if len(images) > 1:
        made.append(Case("images", tuple(images)))
    made += [Case("video" if i == 0 else f"video {i + 1}", (v,)) for i, v in enumerate(videos)]
    if images and videos and mixes:
        made.append(Case("mixed", (images[0], videos[0], *images[1:2])))
    return made


def _decoded(file: str, media: MediaConfig) -> DecodedImage | DecodedVideo:
    video = Path(file).suffix.lower() in VIDEOS
    ref = MediaRef("video" if video else "image", file)
    (one,) = decode(Sample(file, (ref,), ()), media)
    return one


def _own() -> list[DecodedImage | DecodedVideo]:
    """Three images of different aspects, and six frames at two a second."""
    rng = np.random.default_rng(0)
    made: list[DecodedImage | DecodedVideo] = []
    for width, height in ((96, 64), (64, 128), (61, 67)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        made.append(DecodedImage(Image.fromarray(pixels)))
    frames = rng.integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)
    metadata = {
        "fps": 8.0,
        "duration": 3.0,
        "total_num_frames": 24,
        "frames_indices": list(range(0, 24, 4)),
        "video_backend": "pyav",
        "do_sample_frames": False,
    }
    return [*made, DecodedVideo(frames, metadata)]
