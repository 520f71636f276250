"""Ray, on this machine alone or on a cluster that is there, and the room that it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError

ROOT = Path(__file__).resolve().parents[2]
# Every actor is a process group of its own, whatever started this process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
LOOPBACK = {"address": "local", "_node_ip_address": "127.0.0.1"}


class NoReplica(ConfigError):
    """There is no copy of a model to go on with."""

    exit_code = 1


def start_ray(address: str) -> Any:
    """Ray, connected to the cluster of that address, or to one of our own on this machine.

    Ray's own cluster speaks to nobody else: given a loopback address alone it takes the machine's
    instead, and all its processes listen everywhere. What it does on systems without clusters is
    right here. Its processes end with this one, however it ends. Raises NoReplica where it would
    listen elsewhere.
    """
    if not address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read at import, here and in theirs
        # Ray starts workers at nice 15, where a busy machine takes ten seconds to start one.
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        return ray
    ray_constants.ENABLE_RAY_CLUSTER = bool(address)  # where it was imported before
    ray.init(
        **({"address": address} if address else LOOPBACK),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), **ALONE}},
    )
    addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
    if not address and addresses != [LOOPBACK["_node_ip_address"]]:
        ray.shutdown()
        raise NoReplica(f"Ray would listen at {addresses}, not on loopback alone")
    return ray


def resources_of_one(ray: Any, copies: int) -> dict[str, Any]:
    """What each of so many actors asks for: a GPU where there are any, else a share of the CPUs.

    The share is the largest with which all find room on the machines; one CPU where none is.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("GPU") for node in nodes):
        return {"num_gpus": 1, "num_cpus": 1}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    shares = range(max(cpus, default=0), 0, -1)
    share = next((s for s in shares if sum(n // s for n in cpus) >= copies), 1)
    return {"num_gpus": 0, "num_cpus": share}


def room(ray: Any) -> int:
    """The most actors that the machines have room for now: GPUs, or CPUs where there are none."""
    have = ray.cluster_resources()
    return int(have.get("GPU") or have.get("CPU", 0))
