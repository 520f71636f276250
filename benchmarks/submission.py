"""Captions of 8 long videos: prompts submitted all at first, or while the engine steps.

    python benchmarks/submission.py [THREADS]

"first": all rendered and submitted before the first pass. "room": each when a pass has room for
it, rendered between passes, as on a CPU. "thread": the same, rendered ahead by a thread, as on
CUDA. The captions must be the same, bit for bit. THREADS: torch's, of a CPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from common import MEDIA, SHAPES, N, alternated, prompt_of, summary

from caprl_native.config.models import EngineConfig
from caprl_native.data.loader import LoadedSample
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.prompt import processor_kwargs
from caprl_native.rollout.captioner import Captioner
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.testing.tiny_models import write_tiny_vlm
from caprl_native.types import Rollout, Sample

VIDEOS, TOKENS, REPEATS = 8, 32, 3
WAYS = {"first": (10**9, 0), "room": (0, 0), "thread": (0, 2)}  # tokens of a pass (0: true), ahead


class Submissions:
    """An engine and its prompts; `captions` writes them in one of the ways."""

    def __init__(self, path: Path) -> None:
        prompts = [prompt_of(path, SHAPES["long_video"], i) for i in range(VIDEOS)]
        self.items = [
            LoadedSample(Sample(f"video {i}", (), ()), prompt, index=i)
            for i, prompt in enumerate(prompts)
        ]
        self.engine = Engine(
            EngineSettings(
                EngineConfig(max_model_len=8192, max_num_seqs=VIDEOS * N, kv_cache_gib=1.5),
                path=str(path),
                dtype="float32",
                mm_processor_kwargs=processor_kwargs(path, MEDIA),
                media_per_prompt=1,
            )
        )

    def render_seconds(self) -> float:
        began = time.perf_counter()
        self.engine.render(self.items[0].prepared.for_engine())
        taken = time.perf_counter() - began
        self.engine.forget_media()
        return taken

    def captions(self, way: str) -> list[list[Rollout]]:
        self.engine.reset_caches()
        room, ahead = WAYS[way]
        true_room = Engine.batch_tokens
        Engine.batch_tokens = room or true_room  # type: ignore[assignment, method-assign]
        try:
            captioner = Captioner(self.engine, Sampling(n=N, max_tokens=TOKENS), 0, ahead)
            return [group.rollouts for group in captioner.write(self.items, step=1)]
        finally:
            Engine.batch_tokens = true_room  # type: ignore[method-assign]


def measure(threads: int) -> dict[str, Any]:
    init_distributed(threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_vlm(Path(folder) / "model", hidden=256, layers=4, vision=128)
        ours = Submissions(path)
        found: dict[str, list[list[Rollout]]] = {}
        seconds = alternated(
            {way: lambda way=way: found.update({way: ours.captions(way)}) for way in WAYS}, REPEATS
        )
        figures = {
            "prompt_tokens": len(ours.items[0].prepared),
            "render_s": ours.render_seconds(),
            "seconds": {way: summary(taken) for way, taken in seconds.items()},
            "same": all(captions == found["first"] for captions in found.values()),
        }
        ours.engine.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    return figures


def main() -> None:
    print(json.dumps(measure(int(*sys.argv[1:] or [1]))), flush=True)


if __name__ == "__main__":
    main()
