"""Requests whose prompts are prepared, media decoded, while the engine is at others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from caprl_native.inference.models import Picture, Request

MOST_BYTES = 512 << 20  # of pixels that wait; of large media only a few requests are ready
TOGETHER_S = 0.3  # that an idle engine waits for more than the first request


@dataclass(frozen=True)
class Ready:
    """A request with its prompt in the engine's form, or the reason why it has none.

    `size`: bytes of its pixels.
    """

    request: Request
    prompt: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    failure: str = ""
    size: int = 0


class Ahead:
    """What a function makes of each request, in order; with media, ahead and in threads.

    An engine is fastest when requests begin together: it encodes their media in one pass, and
    where they take as long as each other, the next ones begin together as well. So up to `most`
    wait here, as far as their pixels have room, and an idle engine gets those of the next third of
    a second at once.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        make: Callable[[Request], Ready],
        requests: Iterable[Request | None],
        workers: int,
        most: int,
    ) -> None:
        """`workers`: threads of the pool. `make` raises nothing."""
        self._pool, self._make, self._requests = pool, make, iter(requests)
        self._at_once, self._most = 2 * workers, most
        self._waiting: deque[Future[Ready]] = deque()
        self._lock = threading.Lock()
        self._under_way, self._held = 0, 0  # requests in threads; bytes of what is ready

    def gather(self) -> None:
        """Waits until all that may be ready is, but not for long."""
        until = time.monotonic() + TOGETHER_S
        self._fill()
        while (left := until - time.monotonic()) > 0 and self._under_way:
            wait([future for future in self._waiting if not future.done()], left, FIRST_COMPLETED)
            self._fill()

    def next(self, wait_for_it: bool) -> Ready | None:
        """The next one; None at the end, and where it is not ready and need not be waited for."""
        self._fill()
        if not self._waiting or not (wait_for_it or self._waiting[0].done()):
            return None
        ready = self._waiting.popleft().result()
        with self._lock:
            self._held -= ready.size
        return ready

    def _fill(self) -> None:
        """Begins as many as there is room for."""
        while (
            len(self._waiting) < self._most
            and self._under_way < self._at_once
            and self._held < MOST_BYTES
        ):
            request = next(self._requests, None)
            if request is None:
                return
            self._waiting.append(self._begun(request))

    def _begun(self, request: Request) -> Future[Ready]:
        if request.media:
            with self._lock:
                self._under_way += 1
            return self._pool.submit(self._in_thread, request)
        made: Future[Ready] = Future()
        made.set_result(self._make(request))  # here: a tokenizer is not for several threads
        return made

    def _in_thread(self, request: Request) -> Ready:
        ready = self._make(request)
        with self._lock:
            self._under_way -= 1
            self._held += ready.size
        return ready
