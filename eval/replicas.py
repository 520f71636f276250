"""Several copies of a model as Ray actors, on this machine or on a cluster.

The actors take requests from one queue as they have room, and each reply is drawn with a seed of
its own: which copy writes it makes no difference. The queue is short: requests are made as they are
needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from caprl_native.config import MediaConfig
from caprl_native.config_io import ConfigError
from eval.config import ModelConfig, RunConfig
from eval.models import Request, Result, build_model

ROOT = Path(__file__).resolve().parents[1]
TAKEN = 16  # requests that an actor takes from the queue at a time
# Every actor is a process group of its own, whatever started this process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
LOOPBACK = {"address": "local", "_node_ip_address": "127.0.0.1"}


class _Queue:
    """The next requests that no actor has taken yet, some at a time; an empty list is the end."""

    def __init__(self, size: int) -> None:
        self._parts: asyncio.Queue[list[Request]] = asyncio.Queue(size)

    async def put(self, part: list[Request]) -> None:
        """Returns when there is room for it."""
        await self._parts.put(part)

    async def take(self) -> list[Request]:
        return await self._parts.get()


class _Worker:
    """One copy of the model."""

    def __init__(self, config: ModelConfig, media: MediaConfig, seed: int) -> None:
        self.model = build_model(config, media, seed)

    def complete(self, queue: Any) -> Iterator[Result]:
        yield from self.model.complete(_taken(queue))


def _parts(requests: Iterable[Request], ends: int) -> Iterator[list[Request]]:
    """Some requests at a time; at the end an empty part for each actor."""
    coming = iter(requests)
    while part := list(islice(coming, TAKEN)):
        yield part
    yield from ([] for _ in range(ends))


def _taken(queue: Any) -> Iterator[Request]:
    """Requests of the queue until it is empty."""
    import ray

    while requests := ray.get(queue.take.remote()):
        yield from requests


class ReplicatedModel:
    """`run.replicas` copies of an in-process model."""

    def __init__(self, config: ModelConfig, media: MediaConfig, run: RunConfig) -> None:
        import ray

        if not ray.is_initialized():
            # A Ray of our own talks to nobody but this machine.
            where = {"address": run.ray} if run.ray else LOOPBACK
            ray.init(
                **where,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), **ALONE}},
            )
        have = ray.cluster_resources()
        gpus = 1 if have.get("GPU") else 0
        if run.replicas > (most := int(have["GPU" if gpus else "CPU"])):
            raise ConfigError(f"run.replicas: {run.replicas}, but there is room for {most}")
        cpus = 1 if gpus else have["CPU"] // run.replicas
        worker = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker)
        self.workers = [worker.remote(config, media, run.seed) for _ in range(run.replicas)]

    def complete(self, requests: Iterable[Request]) -> Iterator[Result]:
        import ray

        queue = ray.remote(num_cpus=0)(_Queue).remote(2 * len(self.workers))
        parts = _parts(requests, ends=len(self.workers))
        streams = [
            worker.complete.options(num_returns="streaming").remote(queue)
            for worker in self.workers
        ]
        putting = [queue.put.remote(next(parts))]
        while streams:
            ready, _ = ray.wait([*putting, *streams], num_returns=1)
            for done in ready:
                if done in putting:
                    ray.get(done)
                    putting = [queue.put.remote(part) for part in islice(parts, 1)]
                    continue
                try:
                    yield ray.get(next(done))
                except StopIteration:
                    streams.remove(done)

    def close(self) -> None:
        """Ends the actors at once, whatever they are at."""
        import ray

        for worker in self.workers:
            ray.kill(worker)
        self.workers = []
