"""Several copies of a model as Ray actors, on this machine or on a cluster.

Each copy is given a few requests more than it works on at a time, as replies come back, and each
reply is drawn with a seed of its own: which copy writes it makes no difference. Requests and
replies travel some at a time, those that ended since the last time: one call each would bound all
copies together to about a thousand replies a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.inference.backlog import Asked, Backlog, Share, requests_of
from caprl_native.inference.models import Model, Request, Result
from caprl_native.inference.ray_cluster import NoReplica, resources_of_one, room, start_ray

log = logging.getLogger(__name__)

LEAST_AHEAD = 8  # replies that an actor is asked for beyond those that it works on
STARTS = 3  # failures in a row to start a copy, after which it is given up
DEATHS = 6  # deaths in a row of one copy, without any reply of it, after which it is given up
WAIT_S = 60.0  # without news, between words about copies that wait for room
SILENT_S = 1800.0  # without any reply, after which a copy that has requests is taken for hung


class Hung(Exception):
    """A copy gives no reply."""


class _Worker:
    """One copy of the model, at work in a thread of its own."""

    def __init__(self, build: Callable[[], Model]) -> None:
        self._build = build
        self._asked: SimpleQueue[Request] = SimpleQueue()
        self._said: SimpleQueue[Result | Exception | None] = SimpleQueue()
        Thread(target=self._run, name="model", daemon=True).start()

    def work(self, requests: list[Request]) -> list[Result]:
        """Takes requests; returns the replies that have ended since, at least one.

        The first call returns none, when the model is loaded. Raises what ended the model.
        """
        for request in requests:
            self._asked.put(request)
        found = [self._said.get()]
        while not self._said.empty():
            found.append(self._said.get())
        for broken in found:
            if isinstance(broken, Exception):
                raise broken
        return [result for result in found if isinstance(result, Result)]

    def _run(self) -> None:
        try:
            model = self._build()
            self._said.put(None)
            while True:
                for result in model.complete(self._arriving()):
                    self._said.put(result)
        except Exception as error:
            self._said.put(RuntimeError(f"{type(error).__name__}: {error}"))  # may not be pickled

    def _arriving(self) -> Iterator[Request | None]:
        """A first request, when there is one; from then on None where none waits."""
        yield self._asked.get()
        while True:
            yield None if self._asked.empty() else self._asked.get()


@dataclass
class _Copy:
    """An actor in its place, which others take when it dies."""

    actor: Any
    call: Any = None  # what it was called for, until it has returned
    ready: bool = False
    apart: bool = False  # it has requests over which another died, and nothing else
    ended: int = 0  # replies of its last call
    called: float = 0.0  # when, by the monotonic clock
    deaths: int = 0  # of this place, since its last reply
    share: Share = field(default_factory=Share)


class ReplicatedModel:
    """Several copies of a model. One that dies is replaced, and the others go on meanwhile."""

    def __init__(
        self,
        build: Callable[[], Model],
        at_once: int,
        *,
        replicas: int,
        cluster: str,
        silent_s: float = SILENT_S,
    ) -> None:
        """`build` makes one copy in its process, which works on `at_once` replies at a time.
        `cluster`: a Ray cluster's address; empty: one of our own on this machine. One that is ready
        and gives no reply for `silent_s` seconds is replaced.

        On a cluster, copies that it has no room for start when it has. Raises ConfigError where
        this machine has no room for so many.
        """
        self._at_once, self._silent_s, self._death = at_once, silent_s, ""
        self._ray = ray = start_ray(cluster)
        if replicas > room(ray):
            why = f"run.replicas: {replicas}, but there is room for {room(ray)}"
            if not cluster:
                raise ConfigError(why)
            log.warning("%s; the others start when there is more", why)
        self._actors = ray.remote(**resources_of_one(ray, replicas))(_Worker)
        self._build = ray.put(build)
        self.copies = [self._started(_Copy(None)) for _ in range(replicas)]

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Result]:
        """Raises NoReplica when all copies have been given up."""
        backlog = Backlog(requests)
        for copy in self.copies:
            copy.share = Share()  # of a call that was left early
        while True:
            for copy in self.copies:
                self._send(copy, backlog)
            if not backlog and not any(len(copy.share) for copy in self.copies):
                return
            copy = self._first_to_return()
            try:
                if self._is_hung(copy):
                    raise Hung(f"it gave no reply for {self._silent_s:g} seconds")
                results = self._ray.get(copy.call)
            except (self._ray.exceptions.RayError, Hung) as error:
                yield from backlog.lost(copy.share)
                self._replace(copy, error)
            else:
                yield from self._received(copy, results, backlog)

    def _send(self, copy: _Copy, backlog: Backlog) -> None:
        """Calls a copy for what it has, and for more, unless it is called already."""
        if copy.call is None:
            more = self._more(copy, backlog)
            for asked in more:
                copy.share.add(asked)
            if copy.share:
                copy.call = copy.actor.work.remote(list(requests_of(more)))
                copy.called = time.monotonic()

    def _more(self, copy: _Copy, backlog: Backlog) -> list[Asked]:
        if not copy.share:
            group = backlog.group()
            copy.apart = bool(group)
            if group:
                return group
        if copy.apart:
            return []
        ahead = min(max(LEAST_AHEAD, 2 * copy.ended), self._at_once)
        return backlog.new(self._at_once + ahead - len(copy.share))

    def _is_hung(self, copy: _Copy) -> bool:
        """Whether it has had requests for long, and nothing has come back."""
        late = copy.ready and time.monotonic() - copy.called > self._silent_s
        return late and not self._ray.wait([copy.call], timeout=0)[0]

    def _first_to_return(self) -> _Copy:
        """A copy that has returned, or one that hangs. Raises NoReplica."""
        calls = {copy.call: copy for copy in self.copies if copy.call is not None}
        if not calls:
            raise NoReplica(
                "every copy of the model died again and again; what was written is kept, run again "
                f"to go on. The last: {self._death}"
            )
        done: list[Any] = []
        while not done:
            if hung := next(filter(self._is_hung, calls.values()), None):
                return hung
            pause = min(WAIT_S, self._silent_s)
            done = self._ray.wait(list(calls), num_returns=1, timeout=pause)[0]
            waiting = sum(not copy.ready for copy in self.copies)
            if waiting and not done:
                log.warning("%d of %d copies of the model have not started yet (they load, or wait "
                            "for room on the cluster)", waiting, len(self.copies))  # fmt: skip
        copy = calls[done[0]]
        self.copies.remove(copy)
        self.copies.append(copy)  # the others' turn is next
        return copy

    def _received(self, copy: _Copy, results: list[Result], backlog: Backlog) -> Iterator[Result]:
        """Gives a copy more to do before anybody looks at what it has done."""
        copy.call, copy.ready, copy.ended = None, True, len(results)
        if results:
            copy.deaths = 0
        news = copy.share.answers(results)
        self._send(copy, backlog)
        yield from news

    def _replace(self, copy: _Copy, error: Exception) -> None:
        """Starts a copy in the place of one that died, or that broke; not for ever."""
        self._ray.kill(copy.actor)
        self._death = _words(error)
        copy.deaths += 1
        if copy.deaths < (DEATHS if copy.ready else STARTS):
            log.warning("a copy of the model died, another starts: %s", self._death)
            self._started(copy)
            return
        self.copies.remove(copy)
        log.error(
            "a copy of the model died %d times without a reply and is given up, %d are left: %s",
            copy.deaths,
            len(self.copies),
            self._death,
        )

    def _started(self, copy: _Copy) -> _Copy:
        copy.actor = self._actors.remote(self._build)
        copy.call, copy.ready, copy.ended = copy.actor.work.remote([]), False, 0
        return copy

    def close(self) -> None:
        """Ends the actors at once, whatever they are at."""
        for copy in self.copies:
            self._ray.kill(copy.actor)
        self.copies = []


def _words(error: Exception) -> str:
    """What ended a copy, in a line; of an error inside it the error, not where it was raised."""
    return " ".join(str(getattr(error, "cause", None) or error).split())[:300]
