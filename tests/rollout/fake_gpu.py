"""A GPU's memory made up for vLLM's own sleep code: its allocator, worker and executor are real.

What is missing without CUDA is replaced, and nothing else: the driver that maps and unmaps memory,
torch's memory pools, and vLLM's `LLM`, whose start is two allocations in the worker's pools here.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

BLOCK = 64  # bytes of one allocation
NOISE = 0xEE  # what memory holds that was mapped again


class Driver:
    """Blocks by address; None: an address without memory, which must not be touched."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray | None] = {}
        self.addresses = itertools.count(0x7000_0000_0000, 1 << 21)

    def create_and_map(self, handle: tuple[int, ...]) -> None:
        assert self.blocks.get(handle[2]) is None, "mapped twice"
        self.blocks[handle[2]] = bytearray([NOISE]) * handle[1]

    def unmap_and_release(self, handle: tuple[int, ...]) -> None:
        assert self.blocks[handle[2]] is not None, "unmapped twice"
        self.blocks[handle[2]] = None

    def cudaMemcpy(self, to: int, source: int, size: int) -> None:
        data = self.blocks[source] if source in self.blocks else ctypes.string_at(source, size)
        assert data is not None, "read from memory that is not there"
        if to in self.blocks:
            self.blocks[to] = bytearray(data)
        else:
            ctypes.memmove(to, bytes(data), size)


class FakeLLM:
    """vLLM's `LLM` as far as sleep goes: its executor's and its worker's own methods."""

    def __init__(self, driver: Driver, calls: list[str], **settings: Any) -> None:
        from vllm.v1.executor.abstract import Executor
        from vllm.v1.worker.gpu_worker import Worker

        self.driver, self.calls, self.settings = driver, calls, settings
        sleeps = settings["enable_sleep_mode"]
        model = types.SimpleNamespace(
            enable_sleep_mode=sleeps,
            enable_cumem_allocator=sleeps,
            sleep_mode_backend="cumem",
            enable_nccl_comm_suspend=False,
        )
        self.worker = object.__new__(Worker)
        self.worker.vllm_config = types.SimpleNamespace(model_config=model)
        self.worker._sleep_mode_backend = None
        self.worker._sleep_saved_parameters = {}
        self.worker._sleep_saved_buffers = self.worker._sleep_saved_draft_buffers = {}
        self.worker.synchronize_device = lambda: None

        class OneWorker(Executor):
            def collective_rpc(_, name: str, kwargs: dict[str, Any]) -> Any:
                return getattr(self.worker, name)(**kwargs)

        OneWorker.__abstractmethods__ = frozenset()
        self.executor = object.__new__(OneWorker)
        self.executor.sleeping_tags = set()
        self.unfinished = False
        self.llm_engine = types.SimpleNamespace(
            has_unfinished_requests=lambda: self.unfinished,
            engine_core=types.SimpleNamespace(shutdown=self._shutdown),
            reset_encoder_cache=lambda: None,
        )
        self.addresses = {tag: self._allocate(tag) for tag in ("weights", "kv_cache")}

    def _allocate(self, tag: str) -> int:
        from vllm.device_allocator.cumem import CuMemAllocator

        address = next(self.driver.addresses)
        with self.worker._maybe_get_memory_pool_context(tag):
            self.driver.blocks[address] = bytearray(BLOCK)
            if self.settings["enable_sleep_mode"]:
                handle = (0, BLOCK, address, 0)
                CuMemAllocator.get_instance().python_malloc_callback(handle)
        return address

    def memory(self, tag: str) -> bytearray | None:
        return self.driver.blocks[self.addresses[tag]]

    def write(self, tag: str, value: int) -> None:
        held = self.memory(tag)
        assert held is not None
        held[:] = bytes([value]) * BLOCK

    def sleep(self, level: int) -> None:
        self.calls.append("sleep")
        self.executor.sleep(level)

    def wake_up(self, tags: list[str]) -> None:
        self.calls += [f"wake {tag}" for tag in tags]
        self.executor.wake_up(tags)

    def collective_rpc(self, name: str, kwargs: dict[str, Any]) -> None:
        self.calls.append(name)
        for _, tensor in kwargs["weights_iterator"]:
            self.write("weights", int(tensor))

    def get_tokenizer(self) -> None: ...

    def reset_mm_cache(self) -> None: ...

    def reset_prefix_cache(self) -> bool:
        return True

    def _shutdown(self) -> None:
        """What the worker's own does with the pools."""
        from vllm.device_allocator.cumem import CuMemAllocator

        self.calls.append("shutdown")
        if CuMemAllocator.instance is not None:
            CuMemAllocator.instance.release_pools()


@contextlib.contextmanager
def _pool(*_: Any) -> Iterator[tuple[Any, Any]]:
    yield types.SimpleNamespace(snapshot=lambda: []), object()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`Engine` starts `FakeLLM`s on a made-up GPU; what they and torch's cache are told."""
    import vllm
    from vllm import device_allocator
    from vllm.device_allocator import cumem
    from vllm.v1.worker import gpu_worker

    from caprl_native.rollout import engine, sleeping

    calls: list[str] = []
    driver = Driver()
    monkeypatch.setattr(vllm, "LLM", lambda **settings: FakeLLM(driver, calls, **settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (1, 2))
    platform = types.SimpleNamespace(
        is_cuda_alike=lambda: True,
        is_xpu=lambda: False,
        is_cpu=lambda: False,
        is_rocm=lambda: False,
    )
    for module in (device_allocator, gpu_worker, cumem):
        monkeypatch.setattr(module, "current_platform", platform)
    monkeypatch.setattr(cumem, "cumem_available", True)
    monkeypatch.setattr(cumem, "libcudart", driver)
    monkeypatch.setattr(cumem, "create_and_map", driver.create_and_map)
    monkeypatch.setattr(cumem, "unmap_and_release", driver.unmap_and_release)
    monkeypatch.setattr(cumem, "use_memory_pool_with_allocator", _pool)
    monkeypatch.setattr(cumem, "current_alloc_conf", lambda: "")
    monkeypatch.setattr(cumem.CuMemAllocator, "instance", None)
    monkeypatch.setattr(engine, "SLEEPERS", sleeping.Sleepers())
    return calls
