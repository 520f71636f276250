"""What a run says when it fails: one message, from one rank; then all ranks end.

A failure that is explained by its own text (wrong data, no checkpoint, a dead reader) is printed
without a traceback. Ranks that fail because another one has left its collectives stay silent.

Nobody cleans up together with others: a rank that waits in a collective of NCCL for one that has
failed waits for hours, and destroying the process group waits for such a rank. So a failed rank
closes its own logs and leaves at once, and a thread on every other rank looks whether one has.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

T = TypeVar("T")
log = logging.getLogger(__name__)

FLUSH_S = 10.0  # for what a failed rank still writes: a service may not answer
POLL_S = 0.5
_STORE_S = 5.0  # for a store whose host may have gone with its node
_FAILED, _OVER = "caprl_native/failed", "caprl_native/over"
_ending = threading.Event()
_watching: list[Failure] = []  # the one of this process, while its run lasts


class RunError(RuntimeError):
    """The run cannot go on, and the message says all there is to say."""

    exit_code = 1


class Stopped(RunError):
    """A signal ended the run before its last step, on all ranks; all of it is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def report_failure_once(*explained: type[Exception]) -> Iterator[Failure]:
    """Ends the process with code 1 on an exception; the first rank to fail prints it, at once.

    Exceptions of the `explained` kinds are printed as `error: <text>`, others with their traceback.
    One that has an `exit_code` ends the process with it. What is to be written before goes into
    `flush` of what this yields. `Stopped` is no failure: it becomes a SystemExit on every rank.
    """
    failure = Failure()
    _watching.append(failure)
    try:
        yield failure
    except Stopped as stopped:
        if failure.is_first():
            print(f"stopped: {stopped}", file=sys.stderr, flush=True)
        raise SystemExit(stopped.exit_code) from None
    except BaseException as error:  # a SystemExit of somebody's reward must end the others, too
        if failure.is_first():
            if isinstance(error, explained):
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
        failure.end(getattr(error, "exit_code", 1))
    finally:
        failure.over.set()
        _watching.remove(failure)


def ending() -> bool:
    """Whether this process is about to end because a rank has failed: it, or another one."""
    watching = within(1.0, lambda: any(failure.elsewhere() for failure in _watching))
    return _ending.is_set() or bool(watching)


class Failure:
    """What this rank does when it or another one fails; a thread looks for others' failures.

    `flush`: writes what this rank alone has to write. It gets `FLUSH_S` seconds.
    """

    def __init__(self) -> None:
        self.flush: Callable[[], None] = _nothing
        self.over = threading.Event()
        store: Any = _get_default_store()  # whose type stub lacks `clone`
        self._store = store.clone()  # a connection of our own: the other one may wait for a key
        self._once = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def is_first(self) -> bool:
        """Whether no other rank has said so before."""
        count = within(_STORE_S, lambda: self._store.add(_FAILED, 1))
        return count in (None, 1)  # the store's host is gone: better said twice than never

    def elsewhere(self) -> bool:
        """Whether another rank has failed. Raises `dist.DistError` where the store is gone."""
        return self._store.check([_OVER])

    def end(self, code: int) -> NoReturn:
        """Flushes, tells the other ranks, and ends the process without any clean-up."""
        self._once.acquire()  # for good: the thread that comes second ends with the first
        _ending.set()
        within(FLUSH_S, self.flush)
        within(_STORE_S, lambda: self._store.set(_OVER, "1"))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _watch(self) -> None:
        """Ends this process once another one has failed, or has taken the store with it."""
        while not self.over.wait(POLL_S):
            try:
                failed = self.elsewhere()
            except dist.DistError:
                failed = not self.over.wait(FLUSH_S)  # at a good end some ranks are later
            if failed:
                self.end(1)


def within(seconds: float, function: Callable[[], T]) -> T | None:
    """What a function returns if it does so in time; None if it is late or fails."""
    found: list[T] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:
            log.warning("at the end of a failed run: %s", reason(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _nothing() -> None:
    """Nothing is to be written yet."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns an error of the file system (a full disk) into a sentence that names `target`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{target} cannot be written: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """One line on what went wrong, without where in the program: "No space left on device"."""
    failures = getattr(error, "failures", None)  # of ranks, in a CheckpointException
    if isinstance(failures, dict) and failures:
        return reason(next(iter(failures.values()))[0])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    for cause in (error.__cause__, error.__context__):
        if isinstance(cause, OSError):
            return reason(cause)
    text = str(error).strip()
    if "inline_container" in text:  # torch's writer of archives says no more than this
        return "a write failed (no space left on the device, or over a quota?)"
    return text.splitlines()[0] if text else type(error).__name__
