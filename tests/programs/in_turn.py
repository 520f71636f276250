"""Two process groups, one after the other, in child processes of the same ranks under torchrun."""

from __future__ import annotations

import os
import time

from caprl_native.distributed.children import in_child, rendezvous


def meet() -> None:
    import torch
    import torch.distributed as dist

    from caprl_native.distributed.world import init_distributed

    dims = init_distributed()
    further = dist.new_group(backend="gloo")  # as an engine has them
    for group in (None, further):
        ones = torch.ones(1)
        dist.all_reduce(ones, group=group)
        assert ones.item() == dims.world
    dist.destroy_process_group()


if __name__ == "__main__":
    codes = [in_child(meet, rendezvous(1))]
    if os.environ["RANK"] == "0":
        time.sleep(4)  # the other one looks for it before it is there, and finds what is left
    codes.append(in_child(meet, rendezvous(2)))
    print(f"rank {os.environ['RANK']}: {codes}\n", end="", flush=True)
