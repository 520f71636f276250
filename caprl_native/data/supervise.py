"""Batches of worker processes that may be killed: noticed within a second, restarted once.

A worker that dies (the out-of-memory killer) may have written half a batch into the pipe that all
workers share, or hold its lock: whoever waits for the next batch then waits for ever. So a thread
waits for it, and this process watches the workers meanwhile.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

from caprl_native.distributed.errors import RunError

T = TypeVar("T")
POLL_S = 0.5
_LAST_WORDS_S = 1.0  # between what a death breaks and the news of it

log = logging.getLogger(__name__)


class WorkersDied(RunError):
    """Loader processes ended without being asked to; the message says how."""


class SupervisedBatches(Generic[T]):
    """An iterator over batches. `start(k)` gives the DataLoader's iterator from batch k on.

    Which batches come does not depend on deaths: the workers are started again from the first
    batch that was not delivered. Raises WorkersDied when they die a second time.
    """

    def __init__(self, start: Callable[[int], Iterator[T]], position: int = 0) -> None:
        self._start, self._position = start, position
        self._pumps: list[_Pump[T]] = []  # none or one
        self._restarted = False
        # Before multiprocessing's own end, which asks by SIGTERM, and workers ignore that.
        Finalize(self, _close, args=(self._pumps,), exitpriority=10)

    def __iter__(self) -> SupervisedBatches[T]:
        return self

    def __next__(self) -> T:
        while True:
            try:
                if not self._pumps:
                    self._pumps.append(_Pump(self._begin()))
                batch = self._pumps[0].next()
            except WorkersDied as death:
                if self._pumps:
                    self._pumps.pop().abandon()
                if self._restarted:
                    raise
                self._restarted = True
                log.warning("%s; started again (once)", death)
                continue
            self._position += 1
            return batch

    def _begin(self) -> Iterator[T]:
        """The DataLoader's iterator. It waits for its workers to start, and sees when one dies."""
        try:
            return self._start(self._position)
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise WorkersDied(f"while it started, a {error}: out of memory?") from error

    def close(self) -> None:
        """Ends the worker processes."""
        _close(self._pumps)


def _close(pumps: list[_Pump]) -> None:
    while pumps:
        pumps.pop().close()


class _Pump(Generic[T]):
    """Takes batches out of an iterator in a thread of its own, one for each call of `next`."""

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches: Any = batches
        self._workers = list(getattr(batches, "_workers", []))  # none: this process decodes
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._taken: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._waiting = False
        self._thread = threading.Thread(
            target=_take, args=(batches, self._wanted, self._taken), daemon=True
        )
        if self._workers:
            self._thread.start()

    def next(self) -> T:
        """The next batch. Raises what the iterator raises, or WorkersDied."""
        if not self._workers:
            return next(self._batches)
        self._wanted.put(True)
        self._waiting = True
        while True:
            try:
                batch, error = self._taken.get(timeout=POLL_S)
                self._waiting = False
                break
            except queue.Empty:
                if dead := self._dead(0.0):
                    raise WorkersDied(_obituary(dead)) from None
        if error is None:
            return batch  # type: ignore[return-value]  # there is one where no error is
        broken = isinstance(error, (OSError, EOFError, RuntimeError))
        if broken and (dead := self._dead(_LAST_WORDS_S)):
            raise WorkersDied(_obituary(dead)) from error
        raise error

    def _dead(self, patience: float) -> list[Any]:
        """The workers that have ended; waits so many seconds for the first."""
        ended = wait([w.sentinel for w in self._workers], timeout=patience)
        return [w for w in self._workers if w.sentinel in ended]

    def close(self) -> None:
        """The ordinary end: the iterator ends its workers when nobody holds it any more."""
        if self._waiting:  # left by an exception: the thread still holds the iterator
            self.abandon()
            return
        if self._workers:
            self._wanted.put(False)
            self._thread.join()
        self._batches = None
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()

    def abandon(self) -> None:
        """Ends the workers that are left, without the DataLoader's farewell: it takes locks that a
        killed worker may hold. The thread may wait for ever; it ends with the process."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._batches._shutdown = True  # its destructor has nothing left to do
        self._wanted.put(False)


def _take(batches: Iterator[T], wanted: queue.SimpleQueue, taken: queue.SimpleQueue) -> None:
    while wanted.get():
        try:
            taken.put((next(batches), None))
        except BaseException as error:  # the main thread raises it
            taken.put((None, error))


def _obituary(dead: list[Any]) -> str:
    """How loader processes ended, and what is the usual cause."""
    said = []
    for worker in dead:
        worker.join()
        code = worker.exitcode or 0
        how = f"ended with {code}"
        if code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
            how += ": out of memory? (see data.workers, data.prefetch_gib)" if code == -9 else ""
        said.append(f"loader process {worker.pid} {how}")
    return "; ".join(said)
