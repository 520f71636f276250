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

    def cancel(self) -> None:
        """Gives up all that is under way."""
        self.run(_cancel_others()).result()

    def close(self, timeout_s: float | None = None) -> None:
        """Gives up all that is under way and ends the thread, which ends later where a call that
        blocks holds it up for `timeout_s`."""
        ending = self.run(_cancel_others())
        ending.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self.loop.stop))
        try:
            ending.result(timeout_s)
        except TimeoutError:
            return
        self._thread.join()
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
