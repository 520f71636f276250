"""Signals: one, and the step is finished and saved; two, and the process exits at once.

Before the first step there is nothing to finish: one ends the process, with 128 + its number. It is
enough that a signal reaches one of the ranks. SIGTERM and SIGUSR1 are how a scheduler takes the
machine back: every rank exits with 0, since all went as it should, and `--resume` goes on. SIGINT
and SIGHUP are a user's: every rank exits with 128 + the signal's number, so that a script does not
take the run for one that is done. A second signal always gives 128 + its number.

torchrun passes on SIGINT, SIGTERM and SIGHUP (SIGUSR1 where TORCHELASTIC_SIGNALS_TO_HANDLE names
it), and kills ranks that are not done 30 s after the signal: give it `--shutdown-timeout` (seconds)
where a step takes longer. torchrun itself ends with 1 on a signal of its own, and with 0 where the
ranks alone got one and ended with 0.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist

from caprl_native.distributed.errors import ending

ONE_PRESS_S = 1.0  # the terminal and torchrun both pass the same Ctrl-C on
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
PREEMPTION = (signal.SIGTERM, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def exit_code(number: int) -> int:
    """Of a run that has finished its step and saved after this signal."""
    return 0 if number in PREEMPTION else 128 + number


class Interrupts:
    """Counts the SIGNALS that this process gets; the ranks agree on stopping between steps.

    A thread does the counting: the main thread may be waiting for other ranks inside a collective,
    and would not come to run a handler.
    """

    def __init__(self) -> None:
        self._first, self._number, self._finishing = 0.0, 0, False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, _ignore)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def _listen(self, reader: int) -> None:
        """Each byte is the number of a signal that came, of whatever kind."""
        while number := os.read(reader, 1)[0]:
            if number in SIGNALS:
                self._handle(number)

    def _handle(self, number: int) -> None:
        now = time.monotonic()
        if ending():  # torchrun's, to the ranks beside one that failed; this one is on its way
            return
        if not self._finishing:
            os._exit(128 + number)
        if not self._first:
            self._first, self._number = now, number
            if os.environ.get("RANK", "0") == "0":
                text = "interrupted: finishing the step; once more to exit at once"
                print(text, file=sys.stderr, flush=True)
        elif now - self._first > ONE_PRESS_S:
            os._exit(128 + number)

    def finish_steps(self) -> None:
        """From now on there are steps to finish: a first signal no longer ends the process."""
        self._finishing = True

    def requested(self) -> int:
        """The signal that a rank was interrupted by, 0 for none (a collective)."""
        numbers = torch.tensor([self._number])
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers.item())


def _ignore(number: int, frame: object) -> None:
    """A handler in place of the default one, which would end the process."""


def set_parent_death_signal() -> None:
    """Ends this process when torchrun is killed, which could not take its ranks with it.

    Left alone, they would train on and write into the folder of the resumed run. Linux only.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
