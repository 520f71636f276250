"""How batches come from worker processes: a batch is one block of shared memory, and what waits to
be taken is bounded in bytes.

Torch would send every tensor by a file descriptor of its own, which stays open as long as the
tensor lives: some thousand prompts end a run with "too many open files".
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch import Tensor

POLL_S = 0.02


@dataclass(frozen=True)
class Parcel:
    """A batch on its way from worker process `worker`: each item's pickle and the sizes of its
    buffers, which lie one after the other in `block` (uint8, shared)."""

    worker: int
    pickles: list[bytes]
    sizes: list[list[int]]
    block: Tensor

    def unpack(self) -> list[Any]:
        """The items, in memory of their own."""
        room, at, items = self.block.numpy().data, 0, []
        for data, sizes in zip(self.pickles, self.sizes, strict=True):
            buffers = []
            for size in sizes:
                buffers.append(bytearray(room[at : at + size]))
                at += size
            items.append(pickle.loads(data, buffers=buffers))
        return items


def pickled(item: Any) -> tuple[bytes, list[memoryview]]:
    """An item without the bytes of its arrays and tensors, and these bytes."""
    stream, buffers = io.BytesIO(), []
    _Pickler(stream, protocol=5, buffer_callback=lambda buffer: buffers.append(buffer.raw())).dump(
        item
    )
    return stream.getvalue(), buffers


class _Pickler(pickle.Pickler):
    """Takes tensors for arrays, which pickle without a copy."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.dtype is not torch.bfloat16:
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented


class Budget:
    """How many bytes wait in all worker processes together, by counters in shared memory.

    Each counter is written by one process only, so there is no lock, which a worker that is killed
    could hold. A worker prepares on while less than `limit` bytes wait, or while nothing of its own
    does: so the batch that the trainer waits for always comes, however large it is.
    """

    def __init__(self, workers: int, limit: float, context: BaseContext) -> None:
        self.limit = limit
        self._made = context.RawArray("q", workers)
        self._sent = context.RawArray("q", workers)
        # Written by the process that takes the batches.
        self._taken = context.RawArray("q", workers)
        self._received = context.RawArray("q", workers)
        self._closed = context.RawValue("b", 0)

    @property
    def waiting(self) -> int:
        """Bytes that are prepared and not taken."""
        return sum(self._made) - sum(self._taken)

    def pack(self, worker: int, indices: Sequence[int], make: Callable[[int], Any]) -> Parcel:
        """In a worker process: makes a batch item by item, each as soon as there is room.

        Raises:
            RuntimeError: nobody will take it: `close` was called.
        """
        parts = []
        for index in indices:
            self._wait_for_room(worker)
            parts.append(pickled(make(index)))
            self._made[worker] += sum(len(b) for b in parts[-1][1])
        sizes = [[len(b) for b in buffers] for _, buffers in parts]
        block = torch.empty(sum(map(sum, sizes)), dtype=torch.uint8).share_memory_()
        room, at = memoryview(block.numpy()), 0
        for _, buffers in parts:
            while buffers:  # freed one by one, so that the batch is not in memory twice
                buffer = buffers.pop(0)
                room[at : at + len(buffer)] = buffer
                at += len(buffer)
        self._sent[worker] += 1
        return Parcel(worker, [data for data, _ in parts], sizes, block)

    def _wait_for_room(self, worker: int) -> None:
        while self.waiting >= self.limit and self._sent[worker] > self._received[worker]:
            if self._closed.value:
                raise RuntimeError("the loader is closed")
            time.sleep(POLL_S)

    def take(self, parcel: Parcel) -> list[Any]:
        """The items of a batch; its bytes make room for others."""
        items = parcel.unpack()
        self._taken[parcel.worker] += parcel.block.numel()
        self._received[parcel.worker] += 1
        return items

    def close(self) -> None:
        """Ends the wait of all workers."""
        self._closed.value = 1
