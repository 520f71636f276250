"""Forks processes from one that has made the slow imports: a test's ranks start in no time.

Reads one request a line, `{"module", "args", "ranks", "env", "log"}`, and answers each with the
process id of a launcher, which starts the ranks and ends with them: its exit code is 0, or that of
the first that failed, which ends the others. `{"reap": pid}` is answered with that code.

Each rank runs `python -m module args` and knows its place from the variables that torchrun sets;
what else torchrun does is missing: signals are not passed on, and rank 0 keeps the store.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

import transformers  # noqa: F401

from caprl_native.rollout.engine import prepare_environment

prepare_environment()

import vllm.entrypoints.llm  # noqa: E402, F401
import vllm.model_executor.models.qwen2_5_vl  # noqa: E402, F401
import vllm.model_executor.models.qwen3_vl  # noqa: E402, F401
import vllm.v1.worker.gpu_model_runner  # noqa: E402, F401

import caprl_native.trainer  # noqa: E402, F401


def main() -> None:
    keep_what_forks_share()
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            status = os.waitpid(request["reap"], 0)[1]
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            os.setsid()
            os._exit(serve(request))


def keep_what_forks_share() -> None:
    """Takes what is there from the garbage collector, in this process and in its forks.

    A collection writes to each object that it looks at: in a fork that copies all of them, for
    seconds, at each of vLLM's many collections. vLLM thaws all objects where an engine ends.
    """
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None


def serve(request: dict[str, Any]) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = {start(request, rank, port) for rank in range(request["ranks"])}
    code = 0
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if not code and (code := os.waitstatus_to_exitcode(status)):
            for other in running:
                os.kill(other, signal.SIGKILL)
    return code


def start(request: dict[str, Any], rank: int, port: int) -> int:
    """Forks one rank; returns its process id. The rank itself leaves through `SystemExit`."""
    if pid := os.fork():
        return pid
    become(request, rank, port)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


def become(request: dict[str, Any], rank: int, port: int) -> None:
    """Gives this process the streams, arguments and environment of a rank."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = [request["module"], *request["args"]]
    ranks = str(request["ranks"])
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks}
    places |= {"LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.clear()
    os.environ.update(request["env"] | places)


if __name__ == "__main__":
    main()
