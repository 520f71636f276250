"""Engines that sleep share vLLM's one allocator: on a made-up GPU (see fake_gpu.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from caprl_native.config.models import EngineConfig
from caprl_native.rollout import weight_sync
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from tests.rollout.fake_gpu import NOISE, FakeLLM, gpu

__all__ = ["gpu"]


def start(*, sleep: bool, dtype: str = "bfloat16", **settings: Any) -> tuple[Engine, FakeLLM]:
    engine = Engine(EngineSettings(EngineConfig(), "a model", dtype, sleep=sleep, **settings))
    return engine, engine.llm


def test_vllm_lets_no_second_engine_sleep(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Sleepers.starting` is there for; when vLLM mends it, that can go."""
    start(sleep=True)
    monkeypatch.setattr("caprl_native.rollout.engine.SLEEPERS.starting", contextlib.nullcontext)
    with pytest.raises(AssertionError, match="one instance per process"):
        start(sleep=True)


def test_two_engines_sleep_and_wake_together_and_keep_their_weights(gpu: list[str]) -> None:
    (policy, first), (reader, second) = start(sleep=True), start(sleep=True)
    for llm, value in ((first, 1), (second, 2)):
        llm.write("weights", value)
        llm.write("kv_cache", value)
    for turn in range(3):
        policy.sleep()
        reader.sleep()  # of no consequence: it sleeps
        assert all(llm.memory(tag) is None for llm in (first, second) for tag in llm.addresses)
        policy.wake("weights")
        assert first.memory("weights") == bytes([1] * 64), turn
        assert second.memory("weights") == bytes([2] * 64), turn
        assert first.memory("kv_cache") is None is second.memory("kv_cache")
        policy.wake("kv_cache")
        reader.wake()
        assert first.memory("kv_cache") == second.memory("kv_cache") == bytes([NOISE] * 64)
    assert not first.executor.is_sleeping and not second.executor.is_sleeping


def test_an_engine_that_does_not_sleep_keeps_its_memory(gpu: list[str]) -> None:
    (policy, _), (reader, second) = start(sleep=True), start(sleep=False)
    assert not second.settings["enable_sleep_mode"]
    policy.sleep()
    reader.sleep()
    assert second.memory("kv_cache") is not None
    reader.close()
    policy.wake()
    policy.close()


def test_the_trainers_cache_is_emptied_before_memory_is_taken(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sleep, then weights, then what goes into them, then the KV cache."""
    engine, llm = start(sleep=True)

    def stream(*_: Any, **__: Any) -> Iterator[tuple[str, torch.Tensor]]:
        assert llm.memory("weights") is not None and llm.memory("kv_cache") is None
        yield "weight", torch.tensor(7)

    monkeypatch.setattr(weight_sync, "stream", stream)
    engine.sleep()
    gpu.clear()
    weight_sync.sync(SimpleNamespace(adapter=None), engine, everything=True)
    assert gpu == ["empty", "wake weights", "reload_weights", "empty", "wake kv_cache"]
    assert llm.memory("weights") == bytes([7] * 64)


def test_an_engine_with_work_does_not_sleep_and_one_that_sleeps_gets_none(gpu: list[str]) -> None:
    (policy, first), (_, second) = start(sleep=True), start(sleep=True)
    second.unfinished = True
    with pytest.raises(RuntimeError, match="requests of it still run"):
        policy.sleep()
    assert first.memory("weights") is not None
    second.unfinished = False
    policy.sleep()
    with pytest.raises(RuntimeError, match="the engine sleeps: its kv_cache and weights"):
        policy.add({}, Sampling(), seed=0)
    with pytest.raises(RuntimeError, match="cannot start"):
        start(sleep=True)


def test_pools_stay_until_the_last_engine_is_closed(gpu: list[str]) -> None:
    from vllm.device_allocator.cumem import CuMemAllocator

    (policy, _), (reader, _) = start(sleep=True), start(sleep=True)
    allocator = CuMemAllocator.get_instance()
    reader.close()
    assert allocator.allocator_and_pools
    policy.close()
    assert not allocator.allocator_and_pools


@pytest.mark.parametrize(
    ("dtype", "float32_head", "overrides"),
    [("bfloat16", True, {"head_dtype": "float32"}), ("bfloat16", False, {}), ("float32", True, {})],
)
def test_the_head_is_float32_where_log_probs_are_learnt_from(
    gpu: list[str], dtype: str, float32_head: bool, overrides: dict[str, str]
) -> None:
    _, llm = start(sleep=False, dtype=dtype, float32_head=float32_head)
    assert llm.settings["hf_overrides"] == overrides
