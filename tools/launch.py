"""How the tools start a program on several ranks of this machine."""

from __future__ import annotations

import socket
import sys


def torchrun(ranks: int) -> list[str]:
    """The command that starts so many ranks; a program, or `-m` and a module, follows.

    The port is a free one of this machine: with port 0 the ranks waited for each other for ever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--nproc-per-node={ranks}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", *options]
