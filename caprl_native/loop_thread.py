"""An event loop in a thread of its own, for what waits while the main thread goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines from other threads. A daemon: it keeps no process alive."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts it; its result comes in the future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def cancel(self, timeout_s: float | None = None) -> bool:
        """Gives up all that is under way; False where a call holds the loop up for so long."""
        ending = self.run(_cancel_others())
        try:
            ending.result(timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """Gives up all that is under way and ends the thread; one that is held up ends later."""
        ended = self.cancel(timeout_s)
        self.loop.call_soon_threadsafe(self.loop.stop)
        if ended:
            self._thread.join()
            self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
