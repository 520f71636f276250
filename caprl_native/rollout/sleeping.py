"""Engines that give their GPU memory back while the policy trains: all of a process together.

vLLM 0.32 keeps what may sleep in one allocator per process (`CuMemAllocator`), whose `sleep` frees
and whose `wake_up` maps what every engine has allocated, by tag alone. A second engine with sleep
mode stops at its start ("CuMem allocator can only be used for one instance per process"), since the
allocator is not empty. Here it is let in, and from then on no engine sleeps or wakes alone.

No GPU has run this; tests drive vLLM's own allocator and worker code over a made-up driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TAGS = ("weights", "kv_cache")


class Sleepers:
    """The engines of a process (vLLM's `LLM`) that sleep and wake together."""

    def __init__(self) -> None:
        self._llms: list[Any] = []
        self._asleep: set[str] = set()  # tags whose memory is not there

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While a further engine starts: vLLM's check counts that engine's own memory alone."""
        if not self._llms:
            yield
            return
        if self._asleep:
            raise RuntimeError(
                "an engine cannot start while those that it shares memory with sleep"
            )
        allocator = _allocator()
        usage, before = allocator.get_current_usage, allocator.get_current_usage()
        allocator.get_current_usage = lambda: usage() - before
        try:
            yield
        finally:
            del allocator.get_current_usage  # the class's own is back

    def add(self, llm: Any) -> None:
        """An engine that has started."""
        self._llms.append(llm)

    def require_awake(self) -> None:
        """Raises RuntimeError while they sleep: vLLM would take a request and never step it."""
        if self._asleep:
            raise RuntimeError(f"the engine sleeps: its {' and '.join(sorted(self._asleep))}")

    def sleep(self) -> None:
        """Frees weights (kept in host memory) and KV caches of all; nothing where they sleep.

        Raises:
            RuntimeError: a request still runs; vLLM would abort it without a word.
        """
        if self._asleep:
            return
        if any(llm.llm_engine.has_unfinished_requests() for llm in self._llms):
            raise RuntimeError("an engine cannot sleep: requests of it still run")
        for llm in self._llms:
            # Level 2 would spare the host's copy, but only of parameters that are all sent again.
            # It loses those of frozen parts, which a sync leaves out, a reader's weights, and plain
            # tensors beside them (Qwen3-VL's deepstack inputs must be zero and come back as noise).
            llm.sleep(level=1)
        self._asleep = set(TAGS)

    def wake(self, tag: str) -> None:
        """Maps "weights" (with what was in them) or "kv_cache" of all again."""
        if tag not in self._asleep:
            return
        # Blocks that the trainer has freed stay in torch's cache, where cuMemCreate finds no room.
        torch.cuda.empty_cache()
        for llm in self._llms:
            llm.wake_up(tags=[tag])
        self._asleep.discard(tag)

    @contextmanager
    def closing(self, llm: Any) -> Iterator[None]:
        """While an engine shuts down: the pools stay as long as another one has memory in them."""
        self._llms.remove(llm)
        if not self._llms:
            self._asleep.clear()
            yield
            return
        allocator = _allocator()
        allocator.release_pools = lambda: None
        try:
            yield
        finally:
            del allocator.release_pools


def _allocator() -> Any:
    from vllm.device_allocator.cumem import CuMemAllocator

    return CuMemAllocator.get_instance()


SLEEPERS = Sleepers()
