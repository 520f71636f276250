"""A run of two ranks of which one fails in the middle of a step.

Arguments: how the other one waits for it ("collective", or "stuck", as in a collective of NCCL,
which does not notice), which rank fails, and a folder.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from caprl_native.distributed import errors
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.signals import Interrupts
from caprl_native.distributed.world import init_distributed
from caprl_native.lifecycle import run_to_end


class Failing:
    """As much of a trainer as `run_to_end` knows."""

    def __init__(self, how: str, failing: str, folder: str) -> None:
        self.how, self.folder, self.rank = how, Path(folder), dist.get_rank()
        self.fails = self.rank == int(failing)
        Interrupts().finish_steps()

    def loop(self) -> None:
        dist.barrier()
        if self.fails:
            raise RunError("the disk is full")
        if self.how == "stuck":
            threading.Event().wait()
        dist.barrier()

    def flush(self) -> None:
        (self.folder / f"flushed_{self.rank}").write_text("")
        threading.Event().wait(3600 if self.fails else 0)  # a service that does not answer

    def close(self) -> None:
        dist.barrier()  # as an engine's shutdown does
        (self.folder / f"closed_{self.rank}").write_text("")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    errors.FLUSH_S = 2.0  # so that the test is a short one
    init_distributed()
    run_to_end(lambda: Failing(*sys.argv[1:]), Failing.loop, RunError)
