"""Videos -> frames and what the processors are told of them; a folder of images is a video."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.images import read_image
from caprl_native.data.sizes import MAX_IMAGE_PIXELS, Unusable, check_size, fit_for_processors
from caprl_native.data.sources import open_medium, open_regular
from caprl_native.data.timeline import Chosen, choose, choose_by_rate
from caprl_native.types import MediaRef

FRAME_FILES = (".jpg", ".jpeg", ".png")  # in a folder that stands for a video

Video = tuple[np.ndarray, dict[str, Any]]  # uint8 `[T, H, W, 3]`, RGB, T even; its metadata


def read_video(medium: MediaRef, config: MediaConfig) -> Video:
    """Frames and metadata. Raises `Unusable`, `OSError`, or what decoders raise."""
    if medium.path and os.path.isdir(medium.path):
        return _read_folder(medium.path, medium, config)
    with open_medium(medium) as source:
        from caprl_native.data.video_file import OutOfStep, VideoFile  # images do without PyAV

        file = VideoFile(source)
        if file.seekable:
            chosen = choose(file.guess, medium, config)
            try:
                frames = _Frames(chosen, config)
                frames.add((n, f.pixels, f.size) for n, f in file.pick(chosen.numbers))
                return frames.all(), chosen.metadata
            except OutOfStep:
                pass  # every frame is looked at, then
        return _read_whole(file, medium, config)


def _read_whole(file: Any, medium: MediaRef, config: MediaConfig) -> Video:
    """Decodes every frame; twice where the times are not what they were guessed to be."""
    try:
        chosen = choose(file.guess, medium, config)
    except Unusable:  # of a clip; by the true times it may lie inside
        chosen = Chosen([], {})
    while True:
        stamps: list[Any] = []
        frames = _Frames(chosen, config)
        frames.add((n, f.pixels, f.size) for n, f in file.play(chosen.numbers, stamps))
        truly = choose(file.timeline(stamps), medium, config)
        if truly.numbers == chosen.numbers:
            return frames.all(), truly.metadata
        chosen = truly


class _Frames:
    """The frames of a video, each reduced as it comes: few of full size exist at a time."""

    def __init__(self, chosen: Chosen, config: MediaConfig) -> None:
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(chosen.numbers):
            self._places.setdefault(number, []).append(place)
        count = max(1, len(chosen.numbers))
        self._most = min(config.video_frame_pixels, config.video_total_pixels // count)
        self._count, self._found = count, 0
        self._frames: np.ndarray | None = None

    def add(self, pictures: Iterable[tuple[int, np.ndarray, tuple[int, int]]]) -> None:
        """Takes (number, uint8 `[H, W, 3]`, size on a display) in."""
        for number, pixels, size in pictures:
            frames = self._room(size)
            image, (height, width) = Image.fromarray(pixels), frames.shape[1:3]
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            for place in self._places[number]:
                frames[place] = image
                self._found += 1

    def _room(self, size: tuple[int, int]) -> np.ndarray:
        if self._frames is None:
            width, height = fit_for_processors(*size, 1, self._most)
            self._frames = np.empty((self._count, height, width, 3), np.uint8)
        return self._frames

    def all(self) -> np.ndarray:
        if self._frames is None or self._found < self._count:
            raise Unusable(f"only {self._found} of {self._count} frames can be decoded")
        return self._frames


# Folders


def _read_folder(folder: str, medium: MediaRef, config: MediaConfig) -> Video:
    """The images of a folder, in natural order, as the frames of a video."""
    fps = medium.fps
    if fps is None:
        raise Unusable("it is a folder, and its frames per second are not given")
    files = [f for f in Path(folder).iterdir() if f.suffix.lower() in FRAME_FILES]
    if not files:
        raise Unusable(f"the folder has no frames ({', '.join(FRAME_FILES)})")
    if not (math.isfinite(fps) and fps > 0):
        raise Unusable(f"no usable frame rate ({fps})")
    files.sort(key=natural_order)
    chosen = choose_by_rate(len(files), float(fps), medium, config)
    frames, size = _Frames(chosen, config), None
    for number in sorted(set(chosen.numbers)):
        pixels = _frame_of_folder(files[number])
        size = size or pixels.shape
        if pixels.shape != size:
            raise Unusable(f"its frames differ in size, see {files[number].name}")
        frames.add([(number, pixels, (pixels.shape[1], pixels.shape[0]))])
    return frames.all(), chosen.metadata


def _frame_of_folder(file: Path) -> np.ndarray:
    try:
        with open_regular(file) as source:
            image = read_image(source, MAX_IMAGE_PIXELS)
    except Unusable as error:
        raise Unusable(f"{file.name}: {error}") from None
    check_size(*image.size)
    return np.asarray(image)


def natural_order(file: Path) -> tuple[list[str | int], str]:
    """Sorts "2.jpg" before "10.jpg": every second piece of a name is a number. "02.jpg" is before
    "2.jpg", in whichever order a file system lists the two."""
    pieces = re.split(r"(\d+)", file.name)
    return [int(p) if i % 2 else p for i, p in enumerate(pieces)], file.name
