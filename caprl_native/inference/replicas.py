"""Several copies of a model as Ray actors, on this machine or on a cluster.

The actors take requests from one queue as they have room, and each reply is drawn with a seed of
its own: which copy writes it makes no difference. The queue is short: requests are made as they are
needed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.config.models import ModelConfig
from caprl_native.config.schema import MediaConfig
from caprl_native.inference.build import build_model
from caprl_native.inference.models import Request, Result, failed

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
TAKEN = 16  # requests that an actor takes from the queue at a time
# Every actor is a process group of its own, whatever started this process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
LOOPBACK = {"address": "local", "_node_ip_address": "127.0.0.1"}


class NoReplica(ConfigError):
    """There is no copy of a model to go on with."""

    exit_code = 1


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


def _taken(queue: Any) -> Iterator[Request]:
    """Requests of the queue until it is empty."""
    import ray

    while requests := ray.get(queue.take.remote()):
        yield from requests


class ReplicatedModel:
    """Several copies of an in-process model.

    What an actor that died has left goes to the others.
    """

    def __init__(
        self, config: ModelConfig, media: MediaConfig, seed: int, *, replicas: int, cluster: str
    ) -> None:
        """`cluster`: a Ray cluster's address; empty: one of our own on this machine.

        Raises ConfigError where there is no room for so many.
        """
        ray = start_ray(cluster)
        have = ray.cluster_resources()
        gpus = 1 if have.get("GPU") else 0
        if replicas > (most := int(have["GPU" if gpus else "CPU"])):
            raise ConfigError(f"run.replicas: {replicas}, but there is room for {most}")
        cpus = 1 if gpus else have["CPU"] // replicas
        worker = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker)
        self.workers = [worker.remote(config, media, seed) for _ in range(replicas)]

    def complete(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Raises NoReplica when no actor is left."""
        begun = _Begun()
        yield from self._round(begun, _parts(requests, TAKEN))
        lost = begun.unanswered()
        while lost:
            if not self.workers:
                raise NoReplica(
                    f"every copy of the model died; what was written is kept, run again to go on. "
                    f"The last: {self.death}"
                )
            yield from self._round(begun, _parts(lost, 1))  # one that kills takes no others along
            lost = begun.unanswered()
            if self.workers:  # it is not for want of one that these have no reply
                why = f"the process that had it died twice: {self.death}"
                for request in lost:
                    yield from begun.answer(failed(request, why))
                lost = []

    def _round(self, begun: _Begun, parts: Iterator[list[Request]]) -> Iterator[Result]:
        """Gives the actors all these requests, until those that live have answered theirs."""
        import ray

        queue = ray.remote(num_cpus=0)(_Queue).remote(2 * len(self.workers))
        streams = {
            worker.complete.options(num_returns="streaming").remote(queue): worker
            for worker in self.workers
        }
        putting: list[Any] = []
        ends = len(streams)
        while streams:
            if not putting and ((part := next(parts, None)) is not None or ends):
                ends -= part is None
                putting = [queue.put.remote(begun.add(part or []))]
            (done,), _ = ray.wait([*putting, *streams], num_returns=1)
            if done in putting:
                ray.get(putting.pop())
                continue
            try:
                yield from begun.answer([ray.get(next(done))])
            except StopIteration:
                del streams[done]
            except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
                self._bury(streams.pop(done), error)
                ends += 1  # it may take one with it

    def _bury(self, worker: Any, error: Exception) -> None:
        self.workers.remove(worker)
        self.death = " ".join(str(error).split())[:300]
        log.warning(
            "a copy of the model died, %d left go on with its requests: %s",
            len(self.workers),
            self.death,
        )

    def close(self) -> None:
        """Ends the actors at once, whatever they are at."""
        import ray

        for worker in self.workers:
            ray.kill(worker)
        self.workers = []


class _Begun:
    """Requests that actors were given, and which of their replies are still to come."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}  # by each key that has no reply yet
        self._answered: set[str] = set()

    def add(self, part: list[Request]) -> list[Request]:
        """Notes the requests of a part, and returns it."""
        self._requests.update((key, request) for request in part for key in request.keys)
        return part

    def answer(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results that are news: what an actor died over is asked again as a whole."""
        for result in results:
            self._requests.pop(result.key, None)
            if result.key not in self._answered:
                self._answered.add(result.key)
                yield result

    def unanswered(self) -> list[Request]:
        """The requests that lack a reply."""
        return list({id(request): request for request in self._requests.values()}.values())


def _parts(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Some requests at a time."""
    coming = iter(requests)
    while part := list(islice(coming, size)):
        yield part


def start_ray(address: str) -> Any:
    """Ray, connected to the cluster of that address, or to one of our own on this machine.

    Ray's own cluster speaks to nobody else: given a loopback address alone it takes the machine's
    instead, and all its processes listen everywhere. What it does on systems without clusters is
    right here. Raises NoReplica where it would be otherwise.
    """
    if not address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read at import, here and in theirs
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        return ray
    ray_constants.ENABLE_RAY_CLUSTER = bool(address)  # where it was imported before
    ray.init(
        **({"address": address} if address else LOOPBACK),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), **ALONE}},
    )
    addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
    if not address and addresses != [LOOPBACK["_node_ip_address"]]:
        ray.shutdown()
        raise NoReplica(f"Ray would listen at {addresses}, not on loopback alone")
    return ray
