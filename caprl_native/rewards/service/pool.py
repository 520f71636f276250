"""Captions to workers: one queue, taken from as workers have room, redone where a worker dies."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from caprl_native.messages import cut
from caprl_native.redact import redact
from caprl_native.rewards.service.counters import Counters
from caprl_native.rewards.service.protocol import Job, Outcome

log = logging.getLogger(__name__)

TAKEN = 16  # captions that a worker gets in one call
CALLS = 4  # of each worker at a time; what else waits goes to the first that has room
TRIES = 4  # workers that may die over a caption before it is given up
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0  # before a worker that died is started again


class Handle(Protocol):
    """A worker, here or elsewhere. Whatever it raises means that it is lost."""

    ends_when_killed: bool  # one that does not, a thread, is never given up while it works

    async def ready(self) -> None: ...
    async def score(self, jobs: Sequence[Job]) -> list[Outcome]: ...
    def kill(self) -> None: ...


class Busy(Exception):
    """There is more waiting than the server takes."""


@dataclass(eq=False)
class _Ticket:
    """A caption that somebody waits for. Its future is set once, whatever workers do."""

    job: Job
    outcome: asyncio.Future[Outcome]
    tries: int = 0


class Pool:
    """Workers of one event loop, each started again when it dies."""

    def __init__(
        self,
        start: Callable[[], Handle],
        count: int,
        max_waiting: int,
        counters: Counters,
        hung_s: float = 0.0,
    ) -> None:
        self._start, self.count, self.max_waiting = start, count, max_waiting
        self.counters, self._hung_s = counters, hung_s
        self.has_started = False  # a worker has: captions wait for the next one where it dies
        self._waiting: deque[_Ticket] = deque()
        self._unanswered: set[_Ticket] = set()
        self._come = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        """Whether a worker lives."""
        return self.counters.workers > 0

    @property
    def in_flight(self) -> int:
        """Captions that wait or are being scored."""
        return len(self._unanswered)

    def open(self) -> None:
        """Starts the workers."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self.count)]

    async def close(self) -> None:
        """Ends the workers, whatever they are at."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def score(self, jobs: Sequence[Job], timeout_s: float) -> list[Outcome]:
        """The captions' outcomes, in order; those that are not there in time are missing.

        Raises Busy where they are too many. Cancelled, it takes back what no worker has begun.
        """
        if len(self._unanswered) + len(jobs) > self.max_waiting:
            raise Busy
        loop = asyncio.get_running_loop()
        tickets = [_Ticket(job, loop.create_future()) for job in jobs]
        self._unanswered |= set(tickets)
        self._waiting.extend(tickets)
        self._come.set()
        try:
            if tickets:
                await asyncio.wait([t.outcome for t in tickets], timeout=timeout_s)
            late = Outcome(failure=f"no score within {timeout_s:g} s")
            return [t.outcome.result() if t.outcome.done() else late for t in tickets]
        finally:
            given_up = [ticket for ticket in tickets if ticket.outcome.cancel()]
            self._unanswered -= set(tickets)
            if given_up:  # those that nobody takes, because no worker lives, would pile up
                self._waiting = deque(t for t in self._waiting if not t.outcome.done())

    async def _keep(self) -> None:
        """One worker after the other, with growing pauses while they die at once."""
        pause = _FIRST_PAUSE_S
        while True:
            worker: Handle | None = None
            try:
                worker = self._start()
                await worker.ready()
                self.has_started = True
                self.counters.workers += 1
                try:
                    if await self._serve(worker):
                        pause = _FIRST_PAUSE_S
                finally:
                    self.counters.workers -= 1
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._report(error)
            finally:
                if worker is not None:
                    worker.kill()
            self.counters.deaths += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _serve(self, worker: Handle) -> bool:
        """Gives a worker captions until it is lost; whether it has scored any."""
        calls: set[asyncio.Task[bool]] = set()
        served = is_suspect = False
        try:
            while True:
                while len(calls) < (1 if is_suspect else CALLS) and (
                    tickets := self._take(is_idle=not calls)
                ):
                    is_suspect = tickets[0].tries > 1
                    calls.add(asyncio.create_task(self._call(worker, tickets)))
                if not self._waiting:
                    self._come.clear()
                coming = asyncio.create_task(self._come.wait())
                has_room = len(calls) < CALLS and not (is_suspect or self._waiting)
                wanted = {coming} if has_room else set()
                ended, _ = await asyncio.wait(calls | wanted, return_when=asyncio.FIRST_COMPLETED)
                coming.cancel()
                for call in ended & calls:
                    calls.discard(call)
                    if not call.result():
                        return served
                    served, is_suspect = True, False
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _take(self, *, is_idle: bool) -> list[_Ticket]:
        """The next captions, for a worker that has others in hand or is idle.

        One that a worker has died over goes alone in its call; one that two have died over, alone
        on its worker, so that it is known whose death the next one is.
        """
        taken: list[_Ticket] = []
        while self._waiting and len(taken) < TAKEN:
            ticket = self._waiting[0]
            if ticket.outcome.done():  # nobody waits for it any more
                self._waiting.popleft()
                continue
            if (taken and ticket.tries) or (ticket.tries > 1 and not is_idle):
                break
            taken.append(self._waiting.popleft())
            if ticket.tries:
                break
        return taken

    async def _call(self, worker: Handle, tickets: list[_Ticket]) -> bool:
        """Whether the worker answered; what it did not is put back, to the front."""
        limit = self._hung_s if self._hung_s and worker.ends_when_killed else None
        try:
            async with asyncio.timeout(limit):
                outcomes = await worker.score([t.job for t in tickets])
            pairs = list(zip(tickets, outcomes, strict=True))
        except asyncio.CancelledError:
            self._put_back(tickets, "it was ended")
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit:
                error = TimeoutError(f"no score within server.hung_s = {limit:g}")
            self._report(error)
            self._put_back(tickets, _text(error))
            return False
        for ticket, outcome in pairs:
            if not ticket.outcome.done():
                ticket.outcome.set_result(outcome)
        return True

    def _put_back(self, tickets: Sequence[_Ticket], reason: str) -> None:
        for ticket in reversed(tickets):
            if ticket.outcome.done():
                continue
            ticket.tries += 1
            if ticket.tries >= TRIES:
                why = f"{TRIES} workers died over it, the last: {reason}"
                ticket.outcome.set_result(Outcome(failure=why))
            else:
                self.counters.redone += 1
                self._waiting.appendleft(ticket)
        self._come.set()

    def _report(self, error: Exception) -> None:
        log.warning("a worker died; another one takes its captions: %s", _text(error))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {cut(redact(' '.join(str(error).split())), 300)}"
