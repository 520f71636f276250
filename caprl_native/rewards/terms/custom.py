"""A reward term from outside: a function or a class, named by its import path.

    [reward.terms.colours]
    type = "custom"
    import_path = "my_package.rewards:colours"
    weight = 0.5

A function takes a `Caption` (and `options` as keyword arguments), and returns a number, a `Score`,
or None where it has none; it may be async. A class is made once, with `options=...`; its instances
are called likewise, or have `submit(caption)`, which returns a future of the same, and what else of
`RewardTerm` they need. A call that takes longer than `timeout_s` (what was submitted: counted from
`finish`), fails, or returns no number is a missing reward with its reason, and the run goes on.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from pydantic import Field

from caprl_native.loop_thread import LoopThread
from caprl_native.registry import imported
from caprl_native.rewards.base import (
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    TermOptions,
    missing,
    reason_of,
)

_ENDING_S = 2.0  # that coroutines have to end when the run does


class CustomOptions(TermOptions):
    """A function or a class of one's own."""

    measures = {"*": "A part that the function names."}
    type: Literal["custom"] = "custom"
    import_path: str = Field(
        "", description='Where it is: "package.module:name", or "file.py:name".'
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="A class is made with them as `options`; a function gets each by its name.",
    )
    timeout_s: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for one caption; then its reward is missing.",
    )
    concurrency: int = Field(8, ge=1, description="Concurrent calls, on each rank.")

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        try:
            if not callable(imported(self.import_path)):
                yield "import_path", "a function or a class"
        except ImportError as error:
            yield "import_path", f"something that can be imported ({error})"


@TERMS.register(CustomOptions)
class Custom(RewardTerm[CustomOptions]):
    """Calls run in threads that are left behind when they hang, or on an event loop of their own.

    The clock that bounds them runs on a loop that no foreign code can hold up.
    """

    def __init__(self, options: CustomOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.scorer = _scorer(options)
        self.collective = getattr(self.scorer, "collective", False)
        self._submits = hasattr(self.scorer, "submit")
        called = [self.scorer, type(self.scorer).__call__] if callable(self.scorer) else []
        self._is_async = any(map(inspect.iscoroutinefunction, called))
        for hook in ("begin", "work", "sleep", "wake"):
            if hasattr(self.scorer, hook):
                setattr(self, hook, getattr(self.scorer, hook))
        self._all_submitted: asyncio.Event | None = None
        self._clock: LoopThread | None = None
        self._coroutines: LoopThread | None = None

    def submit(self, caption: Caption) -> Future[Score]:
        clock = self._clock or self._open()
        if self._submits:
            self._all_submitted = self._all_submitted or asyncio.Event()
            return clock.run(self._outcome(self.scorer.submit(caption), self._all_submitted))
        return clock.run(self._call(caption))

    def finish(self) -> None:
        """From now on the time of captions counts that the scorer may have kept for this: how long
        others took to be written is no part of it."""
        if hasattr(self.scorer, "finish"):
            self.scorer.finish()
        if self._clock is not None and self._all_submitted is not None:
            self._clock.loop.call_soon_threadsafe(self._all_submitted.set)
        self._all_submitted = None

    def _open(self) -> LoopThread:
        self._gate = asyncio.Semaphore(self.options.concurrency)
        if self._is_async:
            self._coroutines = LoopThread("reward coroutines")
        self._clock = LoopThread("reward clock")
        return self._clock

    async def _call(self, caption: Caption) -> Score:
        async with self._gate:
            if self._coroutines is not None:
                return await self._outcome(self._coroutines.run(self.scorer(caption)))
            return await self._outcome(self._in_thread(caption))

    def _in_thread(self, caption: Caption) -> Future[Any]:
        """A call in a daemon thread of its own: no pool waits for those that hang."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            try:
                future.set_result(self.scorer(caption))
            except BaseException as error:
                future.set_result(missing(f"{self.options.import_path}: {reason_of(error)}"))

        threading.Thread(target=call, name="reward", daemon=True).start()
        return future

    async def _outcome(self, future: Future[Any], begins: asyncio.Event | None = None) -> Score:
        """What came within the time limit, which `begins` now, or with an event."""
        path, limit = self.options.import_path, self.options.timeout_s
        waiting = asyncio.wrap_future(future)
        if begins is not None:
            begun = asyncio.ensure_future(begins.wait())
            await asyncio.wait({waiting, begun}, return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
        done, _ = await asyncio.wait({waiting}, timeout=limit)
        if not done:
            waiting.cancel()
            return missing(f"{path}: no score within {limit:g} s")
        if waiting.cancelled():
            return missing(f"{path}: cancelled")
        if error := waiting.exception():
            return missing(f"{path}: {reason_of(error)}")
        return _as_score(waiting.result(), path)

    def close(self) -> None:
        if hasattr(self.scorer, "close"):
            self.scorer.close()
        for thread in (self._clock, self._coroutines):
            if thread is not None:
                thread.close(_ENDING_S)
        self._clock = self._coroutines = None


def _scorer(options: CustomOptions) -> Any:
    found: Any = imported(options.import_path)
    if isinstance(found, type):
        return found(options=options.options)
    return partial(found, **options.options) if options.options else found


def _as_score(value: Any, path: str) -> Score:
    """A number, also of numpy or torch, or a score."""
    if isinstance(value, Score):
        return value
    if value is None:
        return missing(f"{path}: returned None")
    if not hasattr(value, "__float__"):
        return missing(f"{path}: returned {type(value).__name__}, expected a number")
    return Score(float(value))
