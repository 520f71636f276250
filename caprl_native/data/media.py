"""Media files -> pixels: images with Pillow, videos with decord.

Sizes are only capped here, aspect kept: the trainer's processor and the engine's both get these
pixels and round them to their patches by the same rule, so the two cannot disagree.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from caprl_native.config import MediaConfig
from caprl_native.types import MediaRef, Sample

MAX_ASPECT = 200  # the processors refuse more
MAX_SOURCE_PIXELS = 178_956_970  # what Pillow takes for a decompression bomb
_CHUNK = 16  # full-size frames in memory at one time


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


@dataclass(frozen=True)
class DecodedVideo:
    """`frames`: uint8 `[T, H, W, 3]`, RGB, T even. `metadata`: what vLLM and the processors take.

    Keys: `fps` (of the file, not of the frames taken), `duration` (s), `total_num_frames` (of the
    file), `frames_indices` (those taken), `video_backend`, `do_sample_frames` (False).
    """

    frames: np.ndarray
    metadata: dict[str, Any]

    @property
    def timestamps(self) -> list[float]:
        """Seconds from the start, of each frame."""
        return [i / self.metadata["fps"] for i in self.metadata["frames_indices"]]


def decode(sample: Sample, config: MediaConfig) -> list[DecodedImage | DecodedVideo]:
    """The pixels of all media of a sample, in order. Raises `MediaError`."""
    return [_decode_one(sample, medium, config) for medium in sample.media]


class _Unusable(Exception):
    """Why a medium cannot be used, in words of our own."""


def _decode_one(
    sample: Sample, medium: MediaRef, config: MediaConfig
) -> DecodedImage | DecodedVideo:
    try:
        if medium.path is None and not medium.data:
            raise _Unusable("no bytes are embedded")
        if medium.kind == "image":
            return DecodedImage(_read_image(medium, config))
        return _read_video(medium, config)
    except _Unusable as error:
        reason = str(error)
    except MemoryError:
        raise  # the machine's trouble, not the file's
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # decoders raise nearly anything on damaged input
        reason = f"{type(error).__name__}: {error}"
    lines = reason.strip().splitlines() or ["cannot be decoded"]
    raise MediaError(sample.id, medium.name, lines[0][:300])


def fit(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """The nearest size of the same aspect that has from `least` to `most` pixels.

    The upper bound wins where rounding to whole pixels leaves no size between the two.
    """
    area = width * height
    if area < least:
        scale = math.sqrt(least / area)
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if width * height > most:
        scale = math.sqrt(most / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return width, height


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_SOURCE_PIXELS:
        raise _Unusable(f"absurd size {width} x {height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _Unusable(f"size {width} x {height}: one side is over {MAX_ASPECT} times the other")


# Images


def _read_image(medium: MediaRef, config: MediaConfig) -> Image.Image:
    with Image.open(medium.path if medium.data is None else io.BytesIO(medium.data)) as image:
        _check_size(*image.size)
        rgb = _to_rgb(ImageOps.exif_transpose(image))
    size = fit(*rgb.size, config.image_min_pixels, config.image_max_pixels)
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, 16-bit grey loses its low byte."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        grey = grey >> 8 if grey.max() > 255 else grey
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


# Videos


def sample_frames(total: int, fps: float, config: MediaConfig) -> list[int]:
    """Indices of an even number of frames, evenly spaced from the first to the last.

    The processors join frames in pairs; a video of one frame gives it twice.
    """
    wanted = total / fps * config.video_fps
    wanted = min(max(wanted, config.video_min_frames), config.video_max_frames, total)
    count = 2 * int(wanted / 2)
    if count < config.video_min_frames and count + 2 <= min(total, config.video_max_frames):
        count += 2
    if count < 2:
        return [0, total - 1]
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _read_video(medium: MediaRef, config: MediaConfig) -> DecodedVideo:
    import decord  # here: it must be loaded in the loader's own process, and not for images

    decord.logging.set_level(decord.logging.QUIET)
    if medium.data is None:
        with open(medium.path or "", "rb"):  # decord's own message does not say what is wrong
            pass
    source = medium.path if medium.data is None else io.BytesIO(medium.data)
    reader = decord.VideoReader(source, num_threads=1)
    total, fps = len(reader), float(reader.get_avg_fps())
    if total < 1:
        raise _Unusable("no frames")
    if not (math.isfinite(fps) and fps > 0):
        raise _Unusable(f"no usable frame rate ({fps})")
    indices = sample_frames(total, fps, config)
    metadata = {
        "fps": fps,
        "duration": total / fps,
        "total_num_frames": total,
        "frames_indices": indices,
        "video_backend": "decord",
        "do_sample_frames": False,
    }
    return DecodedVideo(_read_frames(reader, indices, config), metadata)


def _read_frames(reader: Any, indices: list[int], config: MediaConfig) -> np.ndarray:
    """uint8 `[T, H, W, 3]`; reduced as they come, so that few full-size frames exist at a time."""
    most = min(config.video_frame_pixels, config.video_total_pixels // len(indices))
    frames: np.ndarray | None = None
    for start in range(0, len(indices), _CHUNK):
        chunk = reader.get_batch(indices[start : start + _CHUNK]).asnumpy()
        height, width = chunk.shape[1:3]
        if frames is None:
            _check_size(width, height)
            size = fit(width, height, 1, most)
            frames = np.empty((len(indices), size[1], size[0], 3), np.uint8)
        for i, frame in enumerate(chunk, start):
            image = Image.fromarray(frame)
            frames[i] = (
                image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
            )
    assert frames is not None
    return frames
