"""torch.compile as the trainer uses it: for any sizes, whole functions, never quietly left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

# Rows of a micro-batch, lengths and grids vary, and 0 and 1 are compiled apart from other sizes.
RECOMPILATIONS = 64


def compiled(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """The function, compiled for any sizes, each of which may be compiled apart up to a limit.

    Beyond it `fullgraph` makes the call an error, in any thread. torch.compile alone would go on
    uncompiled; attention would then hold all scores, 34 GB at 16,384 positions and 32 heads.
    """
    return torch.compile(function, dynamic=True, fullgraph=True, backend=backend, **_limit())


def compile_blocks(blocks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compiles what each block computes, in place: names of parameters stay.

    FSDP's hooks, a checkpoint and the vision cache's hooks stand around it, uncompiled. Blocks of
    one class share what is compiled.
    """
    for block in blocks:
        block.forward = compiled(block.forward, backend)


def _limit() -> dict[str, Any]:
    """torch 2.13 keeps `torch._dynamo.config` apart for each thread, and what a checkpoint
    recomputes is compiled in autograd's: there the limit goes with the function."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return {"recompile_limit": RECOMPILATIONS}
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    return {}
