"""Real media files for tests, made on the spot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_png(
    path: str | os.PathLike[str],
    size: tuple[int, int] = (64, 48),
    color: str | tuple[int, ...] = "red",
    *,
    mode: str = "RGB",
) -> Path:
    """One plain colour; the suffix decides the format (.png, .jpg, ...). `size`: width, height."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(target)
    return target


def write_noise(
    path: str | os.PathLike[str], size: tuple[int, int] = (64, 48), *, seed: int = 0
) -> Path:
    """Random pixels: a file that does not compress to nothing. `size`: width, height."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(target)
    return target


def moving_square(
    count: int = 20, size: tuple[int, int] = (64, 48), *, side: int = 12
) -> list[np.ndarray]:
    """Frames, uint8 `[H, W, 3]` RGB: a square that crosses the picture while its red grows."""
    width, height = size
    frames = []
    for t in range(count):
        frame = np.full((height, width, 3), 32, np.uint8)
        x = round((width - side) * t / max(1, count - 1))
        y = (height - side) // 2
        frame[y : y + side, x : x + side] = (round(55 + 200 * t / max(1, count - 1)), 220, 64)
        frames.append(frame)
    return frames


def write_mp4(
    path: str | os.PathLike[str],
    frames: Sequence[np.ndarray] | np.ndarray | int = 20,
    fps: float = 10.0,
) -> Path:
    """An MPEG-4 file of RGB frames `[H, W, 3]`, or of so many frames of `moving_square`."""
    import cv2

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures = moving_square(frames) if isinstance(frames, int) else list(frames)
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise RuntimeError(f"OpenCV cannot write {target}")
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    return target


def truncate(path: str | os.PathLike[str], keep: float = 0.5) -> Path:
    """Cuts a file to this share of its bytes."""
    target = Path(path)
    os.truncate(target, int(target.stat().st_size * keep))
    return target
