"""Media files -> pixels: images with Pillow, videos with decord; a folder of images is a video.

Sizes are only capped here, aspect kept: the trainer's processor and the engine's both get these
pixels and round them to their patches by the same rule, so the two cannot disagree.
"""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from caprl_native.config import MediaConfig
from caprl_native.types import MediaRef, Sample

MAX_ASPECT = 200  # the processors refuse more
MAX_SOURCE_PIXELS = 178_956_970  # what Pillow takes for a decompression bomb
FRAME_FILES = (".jpg", ".jpeg", ".png")  # in a folder that stands for a video
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

    A clip is described as a file of its own that holds nothing else: its first frame has index 0,
    so that processors, and thus captions, count its time from 0.
    """

    frames: np.ndarray
    metadata: dict[str, Any]

    @property
    def timestamps(self) -> list[float]:
        """Seconds from the start of the video, or of the clip, of each frame."""
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


class _Frames(Protocol):
    """The frames of a video, by index."""

    fps: float

    def __len__(self) -> int: ...
    def read(self, indices: list[int]) -> np.ndarray: ...  # uint8 [n, H, W, 3], RGB


class _VideoFile:
    """The frames of a video file, or of its bytes."""

    def __init__(self, medium: MediaRef) -> None:
        import decord  # here: it must be loaded in the loader's own process, and not for images

        decord.logging.set_level(decord.logging.QUIET)
        if medium.data is None:
            with open(medium.path or "", "rb"):  # decord's own message does not say what is wrong
                pass
        source = medium.path if medium.data is None else io.BytesIO(medium.data)
        self._reader = decord.VideoReader(source, num_threads=1)
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, indices: list[int]) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


class _ImageFolder:
    """The images of a folder as the frames of a video."""

    def __init__(self, folder: str, fps: float | None) -> None:
        if fps is None:
            raise _Unusable("it is a folder, and its frames per second are not given")
        files = [f for f in Path(folder).iterdir() if f.suffix.lower() in FRAME_FILES]
        if not files:
            raise _Unusable(f"the folder has no frames ({', '.join(FRAME_FILES)})")
        self.fps = float(fps)
        self._files = sorted(files, key=_natural)
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: list[int]) -> np.ndarray:
        return np.stack([self._frame(self._files[i]) for i in indices])

    def _frame(self, file: Path) -> np.ndarray:
        with Image.open(file) as image:
            _check_size(*image.size)
            frame = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise _Unusable(f"its frames differ in size, see {file.name}")
        return frame


def _natural(file: Path) -> list[str | int]:
    """Sorts "2.jpg" before "10.jpg": every second piece of a name is a number."""
    return [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", file.name))]


def _read_video(medium: MediaRef, config: MediaConfig) -> DecodedVideo:
    folder = medium.path if medium.path and os.path.isdir(medium.path) else None
    frames: _Frames = _ImageFolder(folder, medium.fps) if folder else _VideoFile(medium)
    fps = frames.fps
    if len(frames) < 1:
        raise _Unusable("no frames")
    if not (math.isfinite(fps) and fps > 0):
        raise _Unusable(f"no usable frame rate ({fps})")
    first, count = _clip(medium, len(frames), fps)
    indices = sample_frames(count, fps, config)
    metadata = {
        "fps": fps,
        "duration": count / fps,
        "total_num_frames": count,
        "frames_indices": indices,
        "video_backend": "decord",
        "do_sample_frames": False,
    }
    return DecodedVideo(_read_frames(frames, [first + i for i in indices], config), metadata)


def _clip(medium: MediaRef, total: int, fps: float) -> tuple[int, int]:
    """The clip's first frame and its number of frames; the whole video's where none is chosen.

    An end after the video's is the video's: annotated times are rounded.
    """
    length = total / fps
    start = medium.start or 0.0
    end = length if medium.end is None else medium.end
    if not 0 <= start < length:
        raise _Unusable(f"the clip starts at {start:g} s, outside of the video's {length:.2f} s")
    if not start < end:
        raise _Unusable(f"the clip ends at {end:g} s, not after its start at {start:g} s")
    first = min(round(start * fps), total - 1)
    stop = min(max(round(end * fps), first + 1), total)
    return first, stop - first


def _read_frames(source: _Frames, indices: list[int], config: MediaConfig) -> np.ndarray:
    """uint8 `[T, H, W, 3]`; reduced as they come, so that few full-size frames exist at a time."""
    most = min(config.video_frame_pixels, config.video_total_pixels // len(indices))
    frames: np.ndarray | None = None
    for start in range(0, len(indices), _CHUNK):
        chunk = source.read(indices[start : start + _CHUNK])
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
