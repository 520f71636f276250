"""Groups of long videos that change ranks: bytes and seconds, against pickled ones sent one by one.

    python benchmarks/moving.py [VIDEOS]

Rank 0 of two has all groups (of 12,288 prompt tokens and 8 x 1,000 of responses), so that half of
them move. "pickled": each as an object, its pixels normalised to float32, as most trainers keep
them. "pickled uint8": the same, its pixels as they are here. "parcels": `balanced`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from common import N, alternated, group_of, in_own_process, summary

from caprl_native.distributed.world import ParallelDims, init_distributed
from caprl_native.policy import parcels
from caprl_native.policy.balance import Costs, balanced
from caprl_native.policy.families import Prompt
from caprl_native.types import Group

VIDEOS, TOKENS, RESPONSE, REPEATS = 4, 12_288, 1000, 5
PATCH = 1536  # numbers of a patch of Qwen3-VL: 3 x 2 frames x 16 x 16
COSTS = Costs(token=1.0, answer=0.0, pair=0.0, patch=0.0)


def video_group(seed: int) -> Group:
    generator = torch.Generator().manual_seed(seed)
    shape = (4 * TOKENS, PATCH)
    patches = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    media = {"patches": patches, "grid": torch.tensor([[128, 16, 24]])}
    types = torch.full((TOKENS,), 2)
    prompt = Prompt(torch.randint(0, 999, (TOKENS,), generator=generator), types, media, 4 * TOKENS)
    return group_of(prompt, RESPONSE, N, seed, vocabulary=150_000)


def with_floats(group: Group) -> Group:
    """Its patches as float32."""
    media = group.prompt.media | {"patches": group.prompt.media["patches"].float()}
    return Group(group.sample, dataclasses.replace(group.prompt, media=media), group.rollouts)


def send_objects(groups: list[Group], dims: ParallelDims) -> None:
    """Rank 0 sends each as an object to rank 1."""
    cpu = torch.device("cpu")
    for group in groups:
        if dims.is_main:
            dist.send_object_list([group], 1, device=cpu)
        else:
            dist.recv_object_list([None], 0, device=cpu)


def measure(videos: int) -> dict[str, Any]:
    dims = init_distributed()
    groups = [video_group(i) for i in range(videos)]
    moving = groups[: videos // 2]
    floats = [with_floats(g) for g in moving]
    ways: dict[str, Callable[[], object]] = {
        "pickled": lambda: send_objects(floats, dims),
        "pickled uint8": lambda: send_objects(moving, dims),
        "parcels": lambda: balanced([groups if dims.is_main else []], COSTS, dims.device),
    }
    nbytes = {"pickled": sum(len(pickle.dumps(g)) for g in floats)}
    nbytes["pickled uint8"] = sum(len(pickle.dumps(g)) for g in moving)
    real = dist.all_to_all_single

    def counted(output: torch.Tensor, given: torch.Tensor, *splits: list[int]) -> object:
        nbytes["parcels"] = given.numel()
        return real(output, given, *splits)

    parcels.dist.all_to_all_single = counted
    seconds = alternated(ways, REPEATS)
    dist.destroy_process_group()
    return {
        "moved": len(moving),
        "pixels": sum(g.prompt.media["patches"].nbytes for g in moving),
        "bytes": nbytes,
        "seconds": {way: summary(taken) for way, taken in seconds.items()},
    }


def main() -> None:
    if "--rank" in sys.argv:
        found = measure(int(sys.argv[-1]))
        if os.environ["RANK"] == "0":
            print(json.dumps(found), flush=True)
        return
    videos = int(sys.argv[1]) if sys.argv[1:] else VIDEOS
    found = in_own_process("moving.py", "--rank", videos, ranks=2)
    for way, nbytes in found["bytes"].items():
        taken = found["seconds"][way]["median"]
        print(f"{way}: {nbytes / 2**20:.1f} MiB, {taken:.2f} s for {found['moved']} groups")


if __name__ == "__main__":
    main()
