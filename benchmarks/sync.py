"""Weight sync from the trainer's shards to the engine, against a plain copy of the same bytes.

    torchrun --nproc-per-node 2 benchmarks/sync.py FOLDER

Every rank has an engine of its own. FOLDER is an empty one for the model, about 1.7 GB; it has 400
million parameters, and goes to the engine in bfloat16.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import deque
from pathlib import Path

import torch
import torch.distributed as dist
from common import Watch, summary

from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.model import Policy
from caprl_native.rollout.engine import Engine, EngineSettings
from caprl_native.rollout.weight_sync import stream, sync
from caprl_native.testing.tiny_models import write_tiny_vlm

MODEL = {"hidden": 1024, "layers": 24, "vision": 256, "vocab_size": 151_936}
REPEATS = 5


def copy_seconds(sizes: list[int]) -> float:
    """Of copying bfloat16 tensors of these sizes, one after the other."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [[torch.ones(n, dtype=torch.bfloat16, device=device) for n in sizes] for _ in range(2)]
    _synchronize()
    began = time.perf_counter()
    for source, target in zip(*pairs, strict=True):
        target.copy_(source)
    _synchronize()
    return time.perf_counter() - began


def stream_seconds(policy: Policy) -> float:
    """Of the trainer's part: every tensor cast, gathered and dropped."""
    dist.barrier()
    began = time.perf_counter()
    deque(stream(policy, torch.bfloat16), maxlen=0)
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    layout = init_distributed()
    path = Path(sys.argv[1])
    if layout.is_main:
        write_tiny_vlm(path, **MODEL)
    dist.barrier()
    policy = load_policy(PolicyConfig(path=str(path)), layout)
    engine = Engine(
        EngineSettings(
            EngineConfig(
                max_model_len=512,
                max_num_seqs=8,
                kv_cache_gib=0.25,
                gpu_memory_utilization=0.3,
            ),
            path=str(path),
            dtype="bfloat16",
            media_per_prompt=1,
        )
    )
    sizes = [p.numel() for p in policy.hf.parameters()]
    units = [*policy.family.vision_blocks(policy.hf), *policy.family.language_layers(policy.hf)]
    seconds, copies, streams, extra = [], [], [], 0
    for i in range(1 + REPEATS):
        dist.barrier()
        with Watch() as watch:
            began = time.perf_counter()
            sync(policy, engine, everything=True)
            _synchronize()
            taken = time.perf_counter() - began
        extra = max(extra, watch.extra)  # the first: later ones find freed memory to use again
        copied, own = copy_seconds(sizes), stream_seconds(policy)
        if i:
            seconds.append(taken)
            copies.append(copied)
            streams.append(own)
    gb = 2 * sum(sizes) / 1e9
    found = {
        "parameters": sum(sizes),
        "gb_per_s": gb / statistics.median(seconds),
        "copy_gb_per_s": gb / statistics.median(copies),
        "seconds": summary(seconds),
        "stream_seconds": summary(streams),
        "extra_bytes": extra,
        "largest_unit_bytes": 2 * max(sum(p.numel() for p in u.parameters()) for u in units),
        "largest_tensor_bytes": 2 * max(sizes),
    }
    engine.close()
    if layout.is_main:
        print(json.dumps(found), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
