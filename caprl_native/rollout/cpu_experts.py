"""Makes vLLM's CPU build pack experts when they are loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def packed_again() -> Iterator[None]:
    """Within it weights may be loaded again; does nothing where there is a GPU.

    vLLM 0.32 for CPUs pads and packs experts for its kernel when it first loads them. Loaded again
    they were copied unpacked over the packed ones: an error where they were padded, and log-probs
    0.1 nats off without a word where not. Without its kernel a layer is set up as at first.
    """
    if torch.cuda.is_available():
        yield
        return
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod as Method,
    )

    original = Method._setup_kernel

    def set_up(self: Any, *args: Any, **kwargs: Any) -> None:
        self.moe_kernel = None
        original(self, *args, **kwargs)

    Method._setup_kernel = set_up
    try:
        yield
    finally:
        Method._setup_kernel = original
