"""Seconds to decode the frames of a sample: 128 of a 10-minute 720p video, and small images.

    python benchmarks/decoding.py [--minutes 10] [--repeats 5]

Our reader beside decord's `get_batch` of the same frames (`pip install decord`), reduced to the
same size; one thread each; in turns, medians. Their pixels are compared as well. The video is made
on the spot: H.264, B-frames, a key frame every 10 s, as x264 makes them by default. Images are
decoded in the decoder's process, and the same in this one: the difference is the price of limits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data import decode_worker
from caprl_native.data.media import DecodedVideo, decode
from caprl_native.testing.media_files import write_noise
from caprl_native.testing.video_files import ffmpeg
from caprl_native.types import MediaRef, Sample

CONFIG = MediaConfig()
CHUNK = 16  # frames of full size that decord gives at a time


def make_video(folder: Path, minutes: int) -> Path:
    """A minute of moving test pictures, again and again."""
    one, path = folder / "one.mp4", folder / "long.mp4"
    source = ("-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=60")
    ffmpeg(*source, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", one)
    ffmpeg("-stream_loop", minutes - 1, "-i", one, "-c", "copy", path)
    return path


def ours(medium: MediaRef) -> Any:
    """Decoded as a sample's medium is."""
    return decode(Sample("benchmark", (medium,), ()), CONFIG)[0]


def by_decord(path: Path, indices: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """The same frames, as they were decoded until decord was replaced."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = np.empty(shape, np.uint8)
    for start in range(0, len(indices), CHUNK):
        chunk = reader.get_batch(indices[start : start + CHUNK]).asnumpy()
        for i, frame in enumerate(chunk, start):
            image = Image.fromarray(frame)
            frames[i] = image.resize((shape[2], shape[1]), Image.Resampling.BICUBIC)
    return frames


def medians(repeats: int, *calls: Callable[[], Any]) -> list[float]:
    """Seconds of each, run in turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, found in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_video(folder, options.minutes)
        medium = MediaRef("video", str(path))
        video: DecodedVideo = ours(medium)
        indices, shape = video.metadata["frames_indices"], video.frames.shape
        equal = bool((by_decord(path, indices, shape) == video.frames).all())
        mine, decords = medians(
            options.repeats, lambda: ours(medium), lambda: by_decord(path, indices, shape)
        )
        size = path.stat().st_size / 2**20
        print(f"{len(indices)} frames of {options.minutes} minutes of 1280 x 720, {size:.0f} MiB")
        print(f"ours {mine:.2f} s, decord {decords:.2f} s; pixels equal: {equal}")
        for size in ((128, 128), (640, 480)):
            image = MediaRef("image", str(write_noise(folder / "image.png", size)))
            here_too = partial(decode_worker.decoded, image, CONFIG)
            apart, here = medians(100, partial(ours, image), here_too)
            print(f"PNG of {size}: {1e3 * apart:.2f} ms, in this process {1e3 * here:.2f} ms")


if __name__ == "__main__":
    main()
