"""Small pictures of media for the report, as data URIs: images, and strips of a video's frames."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from caprl_native.data.media import DecodedImage, DecodedVideo

IMAGE_EDGE = 320  # pixels, the longer one
FRAME_SIZE = (120, 160)  # what a frame of a strip fits in; tall videos are narrower
FRAMES = 8
QUALITY = 70


def thumbnail(decoded: DecodedImage | DecodedVideo) -> str:
    """A JPEG data URI: the image, or up to 8 evenly chosen frames side by side."""
    if isinstance(decoded, DecodedImage):
        return _data_uri(_fitted(decoded.image, (IMAGE_EDGE, IMAGE_EDGE)))
    frames = [Image.fromarray(decoded.frames[i]) for i in _chosen(decoded)]
    return _data_uri(_side_by_side([_fitted(frame, FRAME_SIZE) for frame in frames]))


def strip_times(decoded: DecodedImage | DecodedVideo) -> list[float]:
    """Seconds from the start, of each frame of a video's strip; an image has none."""
    if isinstance(decoded, DecodedImage):
        return []
    times = decoded.timestamps
    return [times[i] for i in _chosen(decoded)]


def _chosen(video: DecodedVideo) -> list[int]:
    """Positions of the strip's frames, from the first to the last."""
    count = len(video.frames)
    return np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int).tolist()


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A copy of the same aspect that fits in `size` (width, height); it is never enlarged."""
    small = image.copy()
    small.thumbnail(size)
    return small


def _side_by_side(frames: list[Image.Image]) -> Image.Image:
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * width, 0))
    return strip


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
