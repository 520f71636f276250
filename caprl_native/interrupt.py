"""Ctrl-C: once, the step is finished and saved; twice, the process exits at once.

Ranks exit with 0 after the first. torchrun itself ends with 1, and kills ranks that are not done
30 s after the signal: give it `--shutdown-timeout` (seconds) where a step takes longer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

import torch

from caprl_native.policy.parallel import sum_over_ranks

ONE_PRESS_S = 1.0  # the terminal and torchrun both pass the same Ctrl-C on
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class Interrupts:
    """Counts SIGINT and SIGTERM of this process; the ranks agree on stopping between steps.

    A thread does the counting: the main thread may be waiting for other ranks inside a collective,
    and would not come to run a handler.
    """

    def __init__(self) -> None:
        self._first = 0.0
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _ignore)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def _listen(self, reader: int) -> None:
        """Each byte is the number of a signal that came, of whatever kind."""
        while number := os.read(reader, 1)[0]:
            if number in SIGNALS:
                self._handle(number)

    def _handle(self, number: int) -> None:
        now = time.monotonic()
        if not self._first:
            self._first = now
            if os.environ.get("LOCAL_RANK", "0") == "0":
                text = "interrupted: finishing the step; once more to exit at once"
                print(text, file=sys.stderr, flush=True)
        elif now - self._first > ONE_PRESS_S:
            os._exit(128 + number)

    def requested(self) -> bool:
        """Whether any rank was interrupted (a collective)."""
        return bool(sum_over_ranks(torch.tensor([float(self._first > 0)])).item())


def _ignore(number: int, frame: object) -> None:
    """A handler in place of the default one, which would end the process."""


def die_with_launcher() -> None:
    """Ends this process when torchrun is killed, which could not take its ranks with it.

    Left alone, they would train on and write into the folder of the resumed run. Linux only.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
