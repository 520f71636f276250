"""Seeds that depend on what they are for, and on nothing else.

Nothing in a run draws from a global generator: every draw has its own seed, made of the run's seed
and the step, sample and number it is for. A resumed run therefore draws what the unbroken one drew.
"""

from __future__ import annotations

import hashlib
import random

# Stands for the step in the seeds of held-out captions and of the questions about them: the same
# at every evaluation, so that evaluations can be compared.
HELD_OUT = -1


def seed_of(*key: int | str) -> int:
    """A 62-bit seed for the key (Python's own `hash` differs from process to process)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def rng_of(*key: int | str) -> random.Random:
    """A random generator of its own for the key."""
    return random.Random(seed_of(*key))
