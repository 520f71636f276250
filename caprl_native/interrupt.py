"""Ctrl-C: once, the step is finished and saved; twice, the process exits at once."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch

from caprl_native.policy.parallel import sum_over_ranks

ONE_PRESS_S = 1.0  # the terminal and torchrun both pass the same Ctrl-C on


class Interrupts:
    """Counts SIGINT and SIGTERM of this process; the ranks agree on stopping between steps."""

    def __init__(self) -> None:
        self._first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self._first:
            self._first = now
            print("interrupted: finishing the step; once more to exit at once", file=sys.stderr)
        elif now - self._first > ONE_PRESS_S:
            os._exit(128 + number)

    def requested(self) -> bool:
        """Whether any rank was interrupted (a collective)."""
        return bool(sum_over_ranks(torch.tensor([float(self._first > 0)])).item())
