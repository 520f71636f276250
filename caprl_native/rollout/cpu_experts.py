"""Makes vLLM's CPU build pack experts when they are loaded again, or beside an adapter."""

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


@contextmanager
def plain_experts() -> Iterator[None]:
    """Within it an engine with an adapter elsewhere may start; does nothing where there is a GPU.

    vLLM 0.32 gives experts its Triton kernel as soon as any layer may have an adapter, which a CPU
    has not: "module 'triton.language' has no attribute 'bfloat16'". Experts never get one here.
    """
    if torch.cuda.is_available():
        yield
        return
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod as Method,
    )

    original = Method.__init__

    def init(self: Any, moe: Any) -> None:
        moe.is_lora_enabled = False
        original(self, moe)

    Method.__init__ = init
    try:
        yield
    finally:
        Method.__init__ = original
