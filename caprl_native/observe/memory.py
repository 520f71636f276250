"""Resident memory of a long run on a CPU."""

from __future__ import annotations

import ctypes


def give_back_freed_memory() -> None:
    """Returns what is freed to the system, from the heaps of all threads (glibc; else nothing).

    Captions and images have ever new sizes, and glibc keeps the holes that they leave: without this
    memory grew by 2 MB a step from step 50 to 85, and went on growing (benchmarks/memory_flat.py).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
