"""Shared by all tests: no network, tiny models with random weights made once per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caprl_native.distributed.world import ParallelDims

# Before anything imports these libraries; processes that the tests start inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# Threads that spin while they wait take the cores from the ranks of the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# Files whose tests start engines or ranks, or take seconds; the slowest first. `make test-fast`
# leaves them out.
HEAVY = [
    "gpu_smoke",
    "certificate",
    "prism_engines",
    "demo_models",
    "update",
    "engine",
    "objectives",
    "sft",
    "loop",
    "carried_run",
    "failures",
    "s2d",
    "replicas",
    "mixture_run",
    "family_runs",
    "two_nodes",
    "tutorial",
    "serving",
    "laboratory",
    "supervised",
    "caption_engine",
    "pretrain",
    "loader",
    "service_load",
    "weight_sync",
    "service_reader",
    "supervise",
    "reward_run",
    "curate_killed",
    "checkpoint",
    "activation_size",
    "adapter_engine",
    "setup",
    "prism",
    "every_benchmark",
    "transport",
    "report_html",
    "report_items",
    "viewer_page",
    "judge_engine",
    "judge_run",
    "service_client",
    "service_fuzz",
    "reader",
    "rubric",
    "curate_engine",
    "site",
    "push",
    "additions",
    "sleeping",
    "balance_ranks",
    "collectives",
    "failing_rank",
    "views",
    "caption_tables",
    "init_vlm",
    "convert_internvl",
    "lora_run",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Light files go first, so that a slip shows within a minute; then the heavy ones, the slowest
    first, so that several workers end at about the same time."""
    place = {f"test_{name}.py": i for i, name in enumerate(HEAVY)}
    items.sort(key=lambda item: place.get(item.path.name, -1))
    for item in items:
        if item.path.name in place:
            item.add_marker(pytest.mark.heavy)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3-VL directory. Read only: the whole session shares it."""
    from caprl_native.testing.tiny_models import write_tiny_vlm

    return write_tiny_vlm(tmp_path_factory.mktemp("models") / "qwen3_vl")


@pytest.fixture(scope="session")
def tiny_policy_2_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2.5-VL directory, read only."""
    from caprl_native.testing.tiny_models import write_tiny_vlm

    return write_tiny_vlm(tmp_path_factory.mktemp("models") / "qwen2_5_vl", "qwen2_5_vl")


@pytest.fixture(scope="session")
def tiny_policy_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3-VL-MoE directory (4 experts, 2 per token), read only."""
    from caprl_native.testing.tiny_models import write_tiny_vlm

    return write_tiny_vlm(tmp_path_factory.mktemp("models") / "qwen3_vl_moe", "qwen3_vl_moe")


@pytest.fixture(scope="session")
def tiny_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random text-only Qwen3 directory, read only."""
    from caprl_native.testing.tiny_models import write_tiny_reader

    return write_tiny_reader(tmp_path_factory.mktemp("models") / "reader")


@pytest.fixture(scope="module")
def dims() -> Iterator[ParallelDims]:
    """A process group of one, for tests that need no second rank."""
    import torch.distributed as dist

    from caprl_native.distributed.world import init_distributed

    before = dict(os.environ)
    yield init_distributed()
    if dist.is_initialized():  # vLLM's engines take it down with them
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
