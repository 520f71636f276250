"""A training run that writes down, step by step, in which collectives this rank takes part.

Arguments: a run's TOML file. Left out: FSDP's own, those of weight syncs and checkpoints, and what
an engine's ranks say to one another.
"""

from __future__ import annotations

import functools
import sys
import traceback
from typing import Any

import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from caprl_native import train
from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.lifecycle import Lifecycle
from tests.ranks import report

NAMES = [
    *("all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor"),
    *("all_gather_coalesced", "all_to_all", "all_to_all_single", "barrier", "broadcast"),
    *("broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter"),
    *("reduce_scatter_tensor", "scatter", "scatter_object_list", "monitored_barrier"),
    *("send", "recv", "isend", "irecv", "batch_isend_irecv"),
    *("send_object_list", "recv_object_list"),
]
OF_TENSORS = ["all_reduce", "all_gather_tensor", "reduce_scatter_tensor", "all_to_all_single"]
OTHERS = ("_fully_shard/", "rollout/weight_sync.py", "caprl_native/checkpoint", "/vllm/")


class Counter:
    """The calls of each step. One that is made inside another is part of it."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = [[]]
        self._inside = False

    def watch(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        @functools.wraps(real)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return real(*args, **kwargs)
            self._inside = True
            try:
                self._note(name)
                return real(*args, **kwargs)
            finally:
                self._inside = False

        setattr(module, name, counted)

    def _note(self, name: str) -> None:
        frames = traceback.extract_stack()
        if any(part in f.filename for f in frames for part in OTHERS):
            return
        ours = [f for f in frames if "caprl_native/" in f.filename]
        # The last ones say where: world.py's helper, and who called it.
        where = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.name}" for f in ours[:-4:-1])
        self.steps[-1].append(f"{name} ({where})")


def main(file: str) -> None:
    counter = Counter()
    for name in NAMES:
        counter.watch(dist, name)
    for name in OF_TENSORS:
        counter.watch(functional, name)
    save = Lifecycle.save

    def saved(trainer: Any, step: int) -> None:
        save(trainer, step)
        counter.steps.append([])

    setattr(Lifecycle, "save", saved)  # noqa: B010
    train.run(load(Config, [file]))
    report(counter.steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
