"""How loader processes start: without a copy of the engine's threads, and without the main module.

The training process holds an engine and communication threads, so it must not be forked. A fork
server is: it imports what workers need once, and forks each from there in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any


def _module_of(function: Any) -> str | None:
    if function is None:
        return None
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__self__", function)  # a bound method: its object
    named = function if hasattr(function, "__name__") else type(function)
    return getattr(named, "__module__", None)


def worker_context(prepare: Any = None) -> BaseContext:
    """A fork server that has imported the loader, and what `prepare` needs.

    That is the module that defines it, and those that its attribute `worker_imports` names.
    """
    context = multiprocessing.get_context("forkserver")
    module = _module_of(prepare)
    wanted = [
        "caprl_native.data.ignore_signals",
        "caprl_native.data.loader",
        *getattr(prepare, "worker_imports", ()),
    ]
    wanted += [module] if module not in (None, "__main__") else []
    context.set_forkserver_preload(wanted)  # a server that is already running goes on as it is
    return context


@contextmanager
def without_main(prepare: Any = None) -> Iterator[None]:
    """Keeps processes started inside from importing the program's main module (and its engine).

    Unless `prepare` is defined there: then they need it.
    """
    main = sys.modules["__main__"]
    hidden = {} if _module_of(prepare) == "__main__" else {"__spec__": None, "__file__": None}
    saved = {key: getattr(main, key) for key in hidden if hasattr(main, key)}
    for key in saved:
        setattr(main, key, None)
    try:
        yield
    finally:
        for key, value in saved.items():
            setattr(main, key, value)


def ignore_signals() -> None:
    """What asks a run to stop does nothing in this process, nor in those that it forks."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def worker_init(worker: int) -> None:
    """What a worker does first: it ignores Ctrl-C and its like, and ends when the trainer ends.

    They reach the whole process group; what they mean is the training process's to decide. A
    killed one cannot end its workers, and their parent, the fork server, lives as long as they.
    """
    ignore_signals()  # torch has given SIGTERM a handler that ends the worker
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
