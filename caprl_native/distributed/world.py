"""The ranks: who is where, process groups and meshes, and collectives over plain values."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from caprl_native.distributed.children import STORE_PREFIX
from caprl_native.distributed.cuda import cuda_problem
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.launcher import ALONE, device_index

T = TypeVar("T")
_TIMEOUT = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class ParallelDims:
    """Where this process stands. Ranks of one tensor-parallel group are neighbours."""

    rank: int
    world: int
    tp_size: int
    device: torch.device

    @property
    def data_rank(self) -> int:
        return self.rank // self.tp_size

    @property
    def data_size(self) -> int:
        return self.world // self.tp_size

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp_size

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def init_distributed(tensor_parallel: int = 1, threads: int = 0) -> ParallelDims:
    """Joins the process group that torchrun describes; without torchrun, a group of one.

    On CUDA, LOCAL_RANK then is the number of this rank's GPU: vLLM and torch take it for that.

    Raises:
        RunError: this machine has GPUs that torch cannot use.
        ValueError: the ranks of a node do not divide into tensor-parallel groups, or are more than
            its GPUs.
    """
    if problem := cuda_problem():
        raise RunError(problem)
    for key, value in ALONE.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0" if os.environ["WORLD_SIZE"] == "1" else "29500")
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    for ranks, where in ((local_world, " of a node"), (world, "")):
        if ranks % tensor_parallel:
            raise ValueError(
                f"rollout.tensor_parallel_size = {tensor_parallel} does not divide the {ranks} "
                f"ranks{where}"
            )
    if torch.cuda.is_available():
        at_least = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
        device = torch.device("cuda", device_index(local, at_least, torch.cuda.device_count()))
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device = torch.device("cpu")
        backend = "gloo"
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // local_world))
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=_TIMEOUT, **_own_names())
    return ParallelDims(dist.get_rank(), world, tensor_parallel, device)


def _own_names() -> dict[str, Any]:
    """Arguments of a process group that is not the first one in torchrun's store."""
    prefix = os.environ.get(STORE_PREFIX)
    if not prefix:
        return {}
    store, rank, world = next(rendezvous("env://", timeout=_TIMEOUT))
    return {"store": dist.PrefixStore(prefix, store), "rank": rank, "world_size": world}


def mesh_for(dims: ParallelDims, replicas: int) -> DeviceMesh:
    """One axis of shards; with `replicas` > 1 (HSDP), replicas by shards."""
    kind = dims.device.type
    if replicas == 1:
        return init_device_mesh(kind, (dims.world,), mesh_dim_names=("shard",))
    if dims.world % replicas:
        raise ValueError(f"policy.replicas = {replicas} does not divide the {dims.world} ranks")
    shape = (replicas, dims.world // replicas)
    return init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum over all ranks, in place."""
    dist.all_reduce(values)
    return values


def sum_counts(counts: list[int]) -> list[int]:
    """The element-wise sums of whole numbers over all ranks."""
    return sum_over_ranks(torch.tensor(counts, dtype=torch.int64)).tolist()


def gather_objects(value: T) -> list[T]:
    """Every rank's object, in the order of ranks, on every rank."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_on_main(value: T) -> list[T]:
    """Every rank's object, in the order of ranks, on rank 0; nothing on the others.

    For what rank 0 alone writes: on every rank, captions would take (ranks)^2 times their size.
    """
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered or []


def from_rank_0(compute: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank; its exception is raised on every rank (a collective).

    For what is decided by looking at a disk: nodes see the changes of a shared one at different
    times, and two that resumed from different steps would train on without a word.
    """
    if not dist.is_initialized():
        return compute()
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = compute()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]
