"""Prompts in the form that an engine takes, rendered in order, and ahead where that pays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch


class Renderer(Protocol):
    """What renders: an `Engine`."""

    def render(self, prompt: dict[str, Any]) -> Any: ...

    def forget_media(self) -> None: ...


class Rendering:
    """The prompts of a batch, one after the other; each a call that gives vLLM's form of it.

    Rendering a long video takes a core a while, in which a GPU would have nothing to do
    (benchmarks/submission.py measures it). With `ahead` > 0 one thread renders up to that many
    prompts while the engine steps; one alone, as in vLLM's own server, because its cache of media
    at the front and the one in the engine must see them in the same order. With 0 each is rendered
    when it is asked for: on a CPU, where vLLM's renderer would change torch's number of threads
    under a running step.
    """

    def __init__(
        self, renderer: Renderer, prompts: Iterable[Callable[[], dict[str, Any]]], ahead: int
    ) -> None:
        self._renderer, self._prompts, self._ahead = renderer, iter(prompts), ahead
        self._under_way: deque[Future[Any]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if ahead:
            threads = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(1, "render", torch.set_num_threads, (threads,))

    def next(self) -> Any:
        """The next prompt, rendered. Raises what rendering it raised."""
        if self._pool is None:
            return self._render(next(self._prompts))
        self._fill(self._pool, self._ahead)
        rendered = self._under_way.popleft()
        self._fill(self._pool, self._ahead)
        return rendered.result()

    def _fill(self, pool: ThreadPoolExecutor, number: int) -> None:
        while len(self._under_way) < number:
            prompt = next(self._prompts, None)
            if prompt is None:
                return
            self._under_way.append(pool.submit(self._render, prompt))

    def _render(self, prompt: Callable[[], dict[str, Any]]) -> Any:
        return self._renderer.render(prompt())

    def close(self) -> None:
        """Ends the thread. The engine must have no requests: what was rendered and not asked for is
        in the frontend's cache of media and not in the engine's, so both are emptied then."""
        if self._pool is None:
            return
        self._pool.shutdown(cancel_futures=True)
        if any(not future.cancelled() for future in self._under_way):
            self._renderer.forget_media()


def render_ahead() -> int:
    """How many prompts are rendered ahead where the engine runs here."""
    return 2 if torch.cuda.is_available() else 0
