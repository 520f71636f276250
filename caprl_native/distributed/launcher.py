"""Where this process stands, as its launcher says: torchrun, `srun` alone, or nobody.

Torch is not imported: `--help`, `--dry-run` and errors in a config answer without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
_PORTS = range(20000, 30000)  # below those that systems give to clients
_NODE = re.compile(r"[^\[,]*(?:\[[^\]]*\][^\[,]*)*")  # the first of a list, with its brackets
_FIRST = re.compile(r"\[([^\],-]*)[^\]]*\]")


def adopt_slurm(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets what torchrun would set, for a process that `srun` started without it.

    In a batch script, and under `srun` with one task, there is nothing to adopt: SLURM sets
    SLURM_PROCID in the first of these, too, but no SLURM_STEP_NUM_TASKS.
    """
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in environ or tasks == "1":
        return
    job, step = int(environ["SLURM_JOB_ID"]), int(environ["SLURM_STEP_ID"])
    adopted = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_here(environ)),
        "MASTER_ADDR": first_host(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(_PORTS[(job + step) % len(_PORTS)]),
    }
    for name, value in adopted.items():
        environ.setdefault(name, value)


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[003-006,9],login" -> "gpu003"."""
    return _FIRST.sub(r"\1", _NODE.match(nodes)[0])  # type: ignore[index]


def _tasks_here(environ: MutableMapping[str, str]) -> int:
    """Tasks on this node, of SLURM_STEP_TASKS_PER_NODE, e.g. "8(x3),4"."""
    counts: list[int] = []
    for part in environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[int(environ["SLURM_NODEID"])]


def replicas(asked: int, world: int) -> int:
    """How many copies of the training state `world` ranks hold: `policy.replicas`, if it is not 0.

    Else one for each node, so that shards travel within nodes alone. Where no launcher says how
    many ranks a node has, as in a plan for other machines, it is 8. One rank a node is no reason
    for copies, each of which would have to fit on one GPU.
    """
    if asked:
        return asked
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "8"))
    return world // local if 1 < local < world and world % local == 0 else 1


def device_index(local_rank: int, local_world: int, visible: int) -> int:
    """Which of the `visible` GPUs is that of this rank, one of `local_world` on its node.

    A scheduler may show each rank its own GPU alone (`--gpus-per-task=1`), as number 0.

    Raises:
        ValueError: there are fewer GPUs than ranks; on every rank of the node alike.
    """
    if visible == 1:
        return 0
    if local_world <= visible:
        return local_rank
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    raise ValueError(
        f"{local_world} ranks on this node, and each sees {visible} GPUs (CUDA_VISIBLE_DEVICES: "
        f"{listed}): start as many ranks as GPUs, or show each rank one GPU of its own"
    )
