"""Forks processes from one that has made the slow imports: a test's ranks start in no time.

Reads one request a line, `{"module", "args", "ranks", "env", "log"}`, and answers each with the
process id of a launcher, which starts the ranks and ends with them: its exit code is 0, or that of
the first that failed, which ends the others. `{"reap": pid}` is answered with that code.

Each rank runs `python -m module args` and knows its place from the variables that torchrun sets;
what else torchrun does is missing: signals are not passed on, and rank 0 keeps the store.

With no ranks the launcher is the module itself: torchrun, which can fork its ranks as well. With
`"node": {"namespace", "name", "hidden"}` it runs in a network namespace, on a host of that name
that sees an empty folder in place of the hidden one, if one is named.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from typing import Any, NoReturn

import sympy.tensor.tensor  # noqa: F401
import torch.distributed.checkpoint._fsspec_filesystem  # noqa: F401
import torch.distributed.tensor.experimental._func_map  # noqa: F401
import torch.export._trace  # noqa: F401
import transformers.models.auto.video_processing_auto  # noqa: F401
import transformers.models.qwen3_vl.modeling_qwen3_vl  # noqa: F401
import transformers.tokenization_mistral_common  # noqa: F401

from caprl_native.rollout.engine import prepare_environment

prepare_environment()

import vllm.distributed.elastic_ep.elastic_execute  # noqa: E402, F401
import vllm.entrypoints.launchers.cli_args  # noqa: E402, F401
import vllm.entrypoints.llm  # noqa: E402, F401
import vllm.model_executor.layers.quantization.online.base  # noqa: E402, F401
import vllm.v1.worker.gpu_model_runner  # noqa: E402, F401
from vllm.model_executor.models.registry import ModelRegistry  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.v1.sample import sampler  # noqa: E402

import caprl_native.trainer  # noqa: E402, F401

MODELS = (
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3ForCausalLM",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
)


def main() -> None:
    do_what_forks_would_repeat()
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
            if not request["ranks"]:
                run(request, {})
            os._exit(serve(request))


def do_what_forks_would_repeat() -> None:
    """What vLLM does at the start of an engine with the same result every time."""
    for model in MODELS:  # else each is inspected in a process of its own, where no cache knows it
        ModelRegistry.register_model(model, ModelRegistry.models[model].load_model_cls())
    if current_platform.is_cpu():
        import vllm.v1.worker.cpu_worker  # noqa: F401

        with warnings.catch_warnings(action="ignore"):  # of all modules' deprecated attributes
            current_platform.register_triton_kernel_overrides()
        # Else each engine looks through all modules for such kernels.
        type(current_platform).register_triton_kernel_overrides = lambda *_: None
        # Without torch.compile, whose backend on a CPU is none: see `prepare_environment`.
        sampler.batched_count_greater_than = (
            sampler.batched_count_greater_than._torchdynamo_orig_callable
        )


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


def move_to(namespace: str, name: str, hidden: str) -> None:
    """Puts this process, and what it starts, onto a node, as `ip netns exec` does."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_hostname, new_network = 0x20000, 0x4000000, 0x40000000
    with open(f"/var/run/netns/{namespace}") as network:
        entered = libc.setns(network.fileno(), new_network)
    if entered or libc.unshare(new_mounts | new_hostname):
        raise OSError(ctypes.get_errno(), f"no node {name}")
    socket.sethostname(name)
    if hidden:
        subprocess.run(["mount", "--make-rslave", "/"], check=True)  # nobody else misses it
        subprocess.run(["mount", "-t", "tmpfs", "none", hidden], check=True)


def start(request: dict[str, Any], rank: int, port: int) -> int:
    """Forks one rank; returns its process id."""
    if pid := os.fork():
        return pid
    ranks = str(request["ranks"])
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks}
    places |= {"LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(request, places)


def run(request: dict[str, Any], places: dict[str, str]) -> NoReturn:
    """Makes this process the module, which leaves through `SystemExit`."""
    if "node" in request:
        move_to(**request["node"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = [request["module"], *request["args"]]
    os.environ.clear()
    os.environ.update(request["env"] | places)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
