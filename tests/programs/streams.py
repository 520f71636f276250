"""Streams a sharded policy's weights and reports the most memory that was live meanwhile.

Arguments: the model directory, and the dtype to stream in.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.fsdp import DTYPES, load_policy
from caprl_native.policy.model import load_hf
from caprl_native.rollout.weight_sync import stream
from tests.ranks import report


class Live(TorchDispatchMode):
    """Bytes of the storages that operators made and that something still holds."""

    def __init__(self, old: set[int]) -> None:
        super().__init__()
        self.old, self.holders, self.sizes = old, Counter(), {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if type(tensor) is torch.Tensor:
                self.hold(tensor)
        return out

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if not key or key in self.old:
            return
        if not self.holders[key]:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        self.holders[key] += 1
        weakref.finalize(tensor, self.release, key)

    def release(self, key: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            self.now -= self.sizes.pop(key)


def main(path: str, dtype: str) -> None:
    dims = init_distributed()
    policy = load_policy(PolicyConfig(path=path), dims)
    width = DTYPES[dtype].itemsize
    shards = {p.to_local().untyped_storage().data_ptr() for p in policy.parameters()}
    source = load_hf(path).state_dict()
    wrong, names, bytes_seen = [], [], 0
    with Live(shards) as live:
        for name, tensor in stream(policy, DTYPES[dtype]):
            names.append(name)
            bytes_seen += tensor.nbytes
    left = live.now
    for name, tensor in stream(policy, DTYPES[dtype]):
        if not torch.equal(tensor, source[name].to(DTYPES[dtype])):
            wrong.append(name)
    units = [*policy.family.vision_blocks(policy.hf), *policy.family.language_layers(policy.hf)]
    report(
        {
            "peak": live.peak,
            "left": left,
            "all": bytes_seen,
            "largest": width * max(p.numel() for p in policy.parameters()),
            "unit": width * max(sum(p.numel() for p in u.parameters()) for u in units),
            "wrong": wrong,
            "missing": sorted(set(source) - set(names)),
            "twice": len(names) - len(set(names)),
        }
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
