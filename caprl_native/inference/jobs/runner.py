"""Runs a job: entries in, requests to a model, results into a ledger.

Entries are read as the model has room for their requests, and a chunk is complete when all of its
entries have a result, in whatever order: the model never waits between two chunks.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from caprl_native.data.listing import Entry
from caprl_native.inference.jobs.chunk import Chunk, Line, described
from caprl_native.inference.jobs.ledger import Ledger, entry_key
from caprl_native.inference.jobs.status import Progress
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Model, Request, Result, is_of_input
from caprl_native.inference.store import Reply

log = logging.getLogger(__name__)

MOST_HELD = 64 << 20  # bytes of embedded media, after which a chunk ends
MOST_LOST = 64  # entries in a row without a reply of the model, before the job gives up


@dataclass(frozen=True)
class Ended:
    """How a run ended. `missing`: entries that are left to the next run. `lost`: why it gave up."""

    state: str  # "finished", "incomplete", "interrupted" or "gave up"
    missing: int = 0
    lost: str = ""


@dataclass
class _Pending:
    """An entry that has been asked about."""

    chunk: Chunk
    number: int
    entry: Entry
    replies: dict[str, Reply] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)  # keys that have no reply yet


def run_job(
    task: Task,
    entries: Iterable[Entry],
    open_model: Callable[[], Model],
    ledger: Ledger,
    *,
    unit: str = "entries",
    total: int | None = None,
    fraction: Callable[[], float] | None = None,
    progress: bool = True,
    retry_failed: bool = False,
) -> Ended:
    """Does what the ledger does not hold yet; the model is opened when it is first needed.

    The first SIGINT or SIGTERM ends it when what is under way is done, a second one at once. Where
    the model does not answer (64 entries in a row), it gives up. Entries without an answer are
    missing, and the next run asks about them.

    `fraction`, `total`: of the input, for the time left; see `Progress`.

    Raises:
        ConfigError: the model cannot be used.
        DataError: the ledger's files are damaged.
        KeyboardInterrupt: the second signal.
        OSError: a result could not be written; what was written before stays.
    """
    shown = Progress(ledger, unit=unit, total=total, fraction=fraction, shown=progress)
    job, state = _Job(task, ledger, shown, retry_failed), "stopped by an error"
    try:
        with stopping(job.stop):
            _drive(job, entries, open_model)
        ended = job.ended()
        state = ended.state
        return ended
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        shown.close(state)


def _drive(job: _Job, entries: Iterable[Entry], open_model: Callable[[], Model]) -> None:
    """Until neither an entry nor a retry is left."""
    requests = job.requests(entries)
    first = next(requests, None)
    if first is None:
        return
    model = open_model()
    job.progress.begin()
    try:
        while first is not None:
            for result in model.complete(chain([first], requests)):
                job.take(result)
            requests = job.retries()  # of what ended when there were no more entries to begin
            first = next(requests, None)
    finally:
        model.close()


class _Job:
    """What is under way."""

    def __init__(self, task: Task, ledger: Ledger, progress: Progress, retry_failed: bool) -> None:
        self.task, self.ledger, self.progress = task, ledger, progress
        self.retry_failed = retry_failed
        self.stopped, self.lost, self._in_a_row = False, "", 0
        self._pending: dict[int, _Pending] = {}  # by position in the input
        self._again: deque[Request] = deque()
        self._chunks = 0

    def stop(self) -> None:
        """No further entry is begun."""
        self.stopped = True

    # --- requests -----------------------------------------------------------------------------

    def requests(self, entries: Iterable[Entry]) -> Iterator[Request]:
        """Of all entries that the ledger lacks, and retries between them."""
        for chunk in self._wanting(entries):
            waiting = list(chunk.wanted.items())
            for i, (number, entry) in enumerate(waiting):
                yield from self.retries()
                if self.stopped:
                    self._leave(chunk, len(waiting) - i)
                    return
                yield from self._begin(_Pending(chunk, number, entry))

    def retries(self) -> Iterator[Request]:
        while self._again:
            yield self._again.popleft()

    def _wanting(self, entries: Iterable[Entry]) -> Iterator[Chunk]:
        """The chunks that are not complete."""
        coming = iter(entries)
        while part := list(_next_part(coming, self.ledger.size)):
            keys = [entry_key(entry) for entry in part]
            if self.retry_failed:
                self.ledger.reopen(self._chunks, part, keys)
            chunk = self.ledger.begin(self._chunks, part, keys)
            self._chunks += 1
            del part  # what is done of it need not be held
            if chunk:
                yield chunk

    def _begin(self, pending: _Pending) -> Iterator[Request]:
        entry, position = pending.entry, self._position(pending)
        if entry.problem:
            self._settle(pending, Outcome(failure=entry.problem))
            return
        try:
            content = self.task.content(entry)
            first = self.ledger.first_with(content, position) if content else position
            if first != position:
                self._keep(pending, Outcome(record=None), same_as=first)
                return
            requests = self.task.requests(entry)
        except Exception as error:
            self._settle(pending, self._odd(entry, error))
            return
        self._pending[position] = pending
        if not requests:
            self._finish(pending)
        yield from self._named(pending, requests)

    def _named(self, pending: _Pending, requests: Sequence[Request]) -> list[Request]:
        """The requests under keys that are unique in the job, and waited for."""
        position = self._position(pending)
        for request in requests:
            pending.left.update(request.keys)
        return [
            replace(request, keys=tuple(f"{position}/{key}" for key in request.keys))
            for request in requests
        ]

    def _position(self, pending: _Pending) -> int:
        return pending.chunk.number * self.ledger.size + pending.number

    # --- results ------------------------------------------------------------------------------

    def take(self, result: Result) -> None:
        """A reply; with an entry's last one the entry is settled."""
        position, _, key = result.key.partition("/")
        pending = self._pending[int(position)]
        pending.replies[key] = result.reply
        pending.left.discard(key)
        if not pending.left:
            self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        failures = [r.failure for r in pending.replies.values() if r.failure]
        if lost := next((f for f in failures if not is_of_input(f)), None):
            self._lose(pending, lost)
            return
        self._in_a_row = 0
        try:
            outcome = self.task.finish(pending.entry, pending.replies)
        except Exception as error:
            outcome = self._odd(pending.entry, error)
        if outcome.again and self.stopped:
            self._drop(pending)
        elif outcome.again:
            self._again.extend(self._named(pending, outcome.again))
        else:
            self._settle(pending, outcome)

    def _odd(self, entry: Entry, error: Exception) -> Outcome:
        """One entry that a task cannot deal with is one failure."""
        log.warning("%s: %s", entry.source or entry.id, error, exc_info=error)
        return Outcome(
            failure=f"task: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )

    def _lose(self, pending: _Pending, reason: str) -> None:
        self._in_a_row += 1
        if self._in_a_row == MOST_LOST:
            self.lost, self.stopped = reason, True
        self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        """The next run asks about it."""
        self._pending.pop(self._position(pending), None)
        self._leave(pending.chunk, 1)

    def _leave(self, chunk: Chunk, count: int) -> None:
        self.progress.missing += count
        for _ in range(count):
            chunk.leave()

    def _settle(self, pending: _Pending, outcome: Outcome) -> None:
        self._pending.pop(self._position(pending), None)
        self._keep(pending, outcome)

    def _keep(self, pending: _Pending, outcome: Outcome, same_as: int | None = None) -> None:
        entry, chunk = pending.entry, pending.chunk
        line = Line(
            pending.number,
            chunk.keys[pending.number],
            described(entry),
            outcome.record,
            outcome.failure,
            _common(outcome.failure, entry),
            same_as,
            dict(outcome.counts),
        )
        self.ledger.add(chunk, line)
        self.progress.add()

    def ended(self) -> Ended:
        """How it ended, when nothing is under way any more."""
        missing = self.progress.missing
        if self.lost:
            return Ended("gave up", missing, self.lost)
        if self.stopped:
            return Ended("interrupted", missing)
        if missing:
            return Ended("incomplete", missing)
        self.ledger.finish(self._chunks)
        return Ended("finished")


def _next_part(entries: Iterator[Entry], size: int) -> Iterator[Entry]:
    """The entries of a chunk: so many, or fewer whose embedded media are large."""
    held = 0
    for entry in islice(entries, size):
        yield entry
        held += sum(len(m.data or b"") for m in entry.media)
        if held > MOST_HELD:
            return


def _common(failure: str, entry: Entry) -> str:
    """A failure without the names that are this entry's alone."""
    for name in (entry.source, f"sample {entry.id}", *(m.name for m in entry.media), entry.id):
        if name:
            failure = failure.replace(f"{name}: ", "")
    return failure[:200]


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `stop`, a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        text = "stopping when what is under way is done; once more to stop at once"
        print(f"\n{signal.Signals(number).name}: {text}", file=sys.stderr)
        stop()

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
