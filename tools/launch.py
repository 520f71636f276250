"""How the tools start a program on several ranks of this machine."""

from __future__ import annotations

import socket
import sys


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(ranks: int) -> list[str]:
    """The command that starts so many ranks; a program, or `-m` and a module, follows.

    The port is a free one of this machine: with port 0 the ranks waited for each other for ever.
    """
    options = [f"--nproc-per-node={ranks}", "--master-addr=127.0.0.1"]
    options.append(f"--master-port={free_port()}")
    return [sys.executable, "-m", "torch.distributed.run", *options]
