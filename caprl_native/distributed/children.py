"""A part of a program in a child process: all that it held is gone when it has ended.

Torch is not imported here, so that a parent which does nothing but wait stays small.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # passed on to the child
STORE_PREFIX = "CAPRL_STORE_PREFIX"  # what a process group's names in the store begin with
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_SEEN_S = 10.0  # a file server's clients look for new files every few seconds


def in_child(run: Callable[[], object], environ: Mapping[str, str]) -> int:
    """Calls `run` in a fork of this process; returns its exit code, 128 + signal if killed.

    The child has a session of its own, so that a signal to the whole group reaches it once, passed
    on by this process; it dies with this process.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        os.setsid()
        _die_with(parent)
        os.environ.update(environ)
        run()
        raise SystemExit(0)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, _: os.kill(pid, number))
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(1)


def rendezvous(number: int) -> dict[str, str]:
    """What the `number`-th process group that ranks form one after the other sets, from 1 on.

    The store that torchrun keeps still holds the addresses of the first group's ranks: the next one
    has names of its own in it (`init_distributed`). A store that rank 0 keeps gets another port.
    """
    if number == 1 or os.environ.get("WORLD_SIZE", "1") == "1":
        return {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {STORE_PREFIX: f"group {number}"}
    return {"MASTER_PORT": str(int(os.environ.get("MASTER_PORT", "29500")) + number - 1)}


def appears(file: Path) -> bool:
    """Whether a file is there; of one that another node has written, after a moment.

    A single process does not wait.
    """
    until = time.monotonic() + (_SEEN_S if os.environ.get("WORLD_SIZE", "1") != "1" else 0.0)
    while not file.is_file():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        for folder in (file.parent.parent, file.parent):
            if folder.is_dir():
                os.listdir(folder)  # makes NFS ask its server what is new
    return True
