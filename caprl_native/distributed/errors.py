"""What a run says when it fails: one message, from one rank.

A failure that is explained by its own text (wrong data, no checkpoint, a dead reader) is printed
without a traceback. Ranks that fail because another one has left its collectives stay silent.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from torch.distributed import Store
from torch.distributed.distributed_c10d import _get_default_store


class RunError(RuntimeError):
    """The run cannot go on, and the message says all there is to say."""

    exit_code = 1


class Stopped(RunError):
    """A signal ended the run before its last step; all of it is saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def report_failure_once(*explained: type[Exception]) -> Iterator[None]:
    """Turns an exception into exit code 1; the first rank to fail prints it, at once.

    Exceptions of the `explained` kinds are printed as `error: <text>`, others with their traceback.
    One that has an `exit_code` ends the process with it.
    """
    store = _get_default_store()
    try:
        yield
    except Exception as error:
        if _is_first(store):
            if isinstance(error, explained):
                word = "stopped" if isinstance(error, Stopped) else "error"
                print(f"{word}: {error}", file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
        raise SystemExit(getattr(error, "exit_code", 1)) from None


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


def _is_first(store: Store) -> bool:
    try:
        return store.add("caprl_native/failed", 1) == 1
    except dist.DistError:  # its host is gone: better said twice than never
        return True
