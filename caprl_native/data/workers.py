"""How loader processes start: without a copy of the engine's threads, and without the main module.

The training process holds an engine and communication threads, so it must not be forked. A fork
server is: it imports what workers need once, and forks each from there in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any


def _module_of(function: Any) -> str | None:
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__self__", function)  # a bound method: its object
    named = function if hasattr(function, "__name__") else type(function)
    return getattr(named, "__module__", None)


def worker_context(prepare: Any = None) -> BaseContext:
    """A fork server that has imported the loader and the module of `prepare`."""
    context = multiprocessing.get_context("forkserver")
    module = _module_of(prepare)
    wanted = ["caprl_native.data.loader"] + ([module] if module not in (None, "__main__") else [])
    context.set_forkserver_preload(wanted)  # ignored by a server that is already running
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


def ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; what it means is the training process's to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
