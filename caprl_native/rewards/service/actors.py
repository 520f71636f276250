"""Workers in this process, or as Ray actors on this machine or a cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.rewards.service.config import ServiceConfig, has_engine
from caprl_native.rewards.service.pool import Handle
from caprl_native.rewards.service.protocol import Job, Outcome
from caprl_native.rewards.service.worker import Worker


def workers_of(config: ServiceConfig) -> Callable[[], Handle]:
    """What starts one worker. Several are processes of their own, which may die without harm.

    Raises ConfigError where there is no room for so many.
    """
    server = config.server
    if server.replicas == 1 and not server.ray:
        return lambda: LocalWorker(config)
    from caprl_native.inference.ray_cluster import start_ray

    ray = start_ray("" if server.ray == "local" else server.ray)
    have = ray.cluster_resources()
    is_engine = has_engine(config.reward)
    needs_gpu = is_engine and bool(have.get("GPU"))
    room = int(have["GPU" if needs_gpu else "CPU"])
    if server.replicas > room and is_engine:
        raise ConfigError(f"server.replicas: {server.replicas}, but there is room for {room}")
    cpus = 1 if needs_gpu else have["CPU"] / server.replicas
    actor = ray.remote(
        num_cpus=int(cpus) if cpus >= 1 else cpus,
        num_gpus=int(needs_gpu),
        max_restarts=0,
        max_concurrency=64,
    )(_Actor)
    return lambda: RayWorker(actor.remote(config))


class LocalWorker:
    """A worker in this process."""

    ends_when_killed = False

    def __init__(self, config: ServiceConfig) -> None:
        self.worker = Worker(config)

    async def ready(self) -> None:
        await asyncio.wrap_future(self.worker.ready)

    async def score(self, jobs: Sequence[Job]) -> list[Outcome]:
        return list(await asyncio.gather(*map(asyncio.wrap_future, self.worker.submit(jobs))))

    def kill(self) -> None:
        self.worker.close()


class _Actor:
    """A worker in a process of its own, which ends where the reward breaks: another one starts."""

    def __init__(self, config: ServiceConfig) -> None:
        self.worker = LocalWorker(config)

    async def ready(self) -> int:
        """Its process, once its models are loaded."""
        await self.worker.ready()
        return os.getpid()

    async def score(self, jobs: Sequence[Job]) -> list[Outcome]:
        return await self.worker.score(jobs)


class RayWorker:
    """A worker that Ray runs somewhere."""

    ends_when_killed = True

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def ready(self) -> None:
        await self.actor.ready.remote()

    async def score(self, jobs: Sequence[Job]) -> list[Outcome]:
        return await self.actor.score.remote(list(jobs))

    def kill(self) -> None:
        import ray

        ray.kill(self.actor)
