"""Prompts and groups for tests of the policy: noise for pictures, random tokens for captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.policy.prompt import Prompt, PromptBuilder
from caprl_native.types import Group, MediaRef, Rollout, Sample

MEDIA = MediaConfig(
    image_min_pixels=32 * 32, image_max_pixels=128 * 128, video_total_pixels=8 * 128 * 128
)


def sample(*kinds: Literal["image", "video"], name: str = "") -> Sample:
    """One user turn with media of these kinds, in order, then a text."""
    parts = [{"type": kind} for kind in kinds] + [{"type": "text", "text": "Describe the picture"}]
    media = tuple(MediaRef(kind, "noise") for kind in kinds)
    return Sample(name or "-".join(kinds) or "text", media, ({"role": "user", "content": parts},))


def noise_image(seed: int, size: tuple[int, int] = (96, 64)) -> DecodedImage:
    """Random pixels; `size`: width, height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return DecodedImage(Image.fromarray(pixels))


def noise_video(seed: int, frames: int = 6, size: tuple[int, int] = (64, 64)) -> DecodedVideo:
    """Random frames, two per second."""
    shape = (frames, size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    metadata = {
        "fps": 8.0,
        "duration": frames / 2,
        "total_num_frames": 4 * frames,
        "frames_indices": list(range(0, 4 * frames, 4)),
        "video_backend": "pyav",
        "do_sample_frames": False,
    }
    return DecodedVideo(pixels, metadata)


def prompt(path: Path | str, kind: str, seed: int = 0) -> Prompt:
    """A prompt of kind "image", "images" (two of different sizes), "video", "mixed" (an image, a
    video, another image) or "text"."""
    makers: dict[str, Callable[[], list[Any]]] = {
        "image": lambda: [noise_image(seed)],
        "images": lambda: [noise_image(seed), noise_image(seed + 1, (64, 128))],
        "video": lambda: [noise_video(seed)],
        "mixed": lambda: [
            noise_image(seed),
            noise_video(seed + 1),
            noise_image(seed + 2, (64, 128)),
        ],
        "text": list,
    }
    media = makers[kind]()
    kinds: list[Literal["image", "video"]] = [
        "video" if isinstance(m, DecodedVideo) else "image" for m in media
    ]
    return PromptBuilder(str(path), MEDIA)(sample(*kinds), media)


def responses(
    config: Any, banned: list[int], n: int, seed: int, longest: int = 12
) -> list[list[int]]:
    """n captions of random tokens, 1 to `longest` of them."""
    rng = np.random.default_rng(seed)
    legal = sorted(set(range(config.get_text_config().vocab_size)) - set(banned))
    return [rng.choice(legal, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def group(prompt: Prompt, tokens: list[list[int]], seed: int) -> Group:
    """Captions with random advantages, and engine log-probs near those of an untrained model."""
    rng = np.random.default_rng(seed)
    rollouts = [
        Rollout(t, rng.normal(-5.0, 0.2, len(t)).tolist(), "stop", "", total=0.0, advantage=a)
        for t, a in zip(tokens, rng.normal(size=len(tokens)).tolist(), strict=True)
    ]
    return Group(sample(name=f"group {seed}"), prompt, rollouts)


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest |a - b| / |b| over tensors by name; ones that are next to zero in the whole
    (such as the gradient of a key's bias, which is zero in exact numbers) are measured by it."""
    assert ours.keys() == theirs.keys()
    whole = torch.stack([t.norm() for t in theirs.values()]).norm()
    gaps = [(ours[k] - t).norm() / torch.maximum(t.norm(), 1e-3 * whole) for k, t in theirs.items()]
    return float(torch.stack(gaps).max())
