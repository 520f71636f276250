"""Two nodes on one machine: network namespaces with addresses and names of their own.

    python tools/two_nodes.py --out /tmp/two_nodes      # needs root and `ip` (iproute2)

The demo's configuration runs for a few steps on one node with two ranks, on two nodes with a rank
each, and on two nodes of which one is killed and both are started again. All must end with the
same metrics, captions and weights, bit for bit; and a run.dir that only one node sees is refused.
It exits with 1 if anything went otherwise.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kill_resume import ROOT, differences, ended, environment, finished, kill, steps_logged
from kill_resume import wait_for as while_it_runs
from launch import free_port, torchrun

LINK = "veth0"  # in both namespaces
LIMIT_S = 600.0
MODULE = "caprl_native.train"


@dataclass(frozen=True)
class Node:
    """A network namespace, which is also a host with a name."""

    namespace: str
    name: str
    address: str
    is_host: bool  # of the rendezvous

    def torchrun(self, port: int) -> list[str]:
        """The command that starts a rank on this node of two, and meets the other node's."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        launcher += ["--nproc-per-node=1", "--rdzv-backend=c10d", f"--local-addr={self.address}"]
        launcher += [f"--rdzv-endpoint={ADDRESSES[0]}:{port}", f"--rdzv-id={port}"]
        # The name resolves to no address.
        return [*launcher, f"--rdzv-conf=is_host={int(self.is_host)}"]

    def command(self, port: int, words: Sequence[str], hidden: Path | None = None) -> list[str]:
        """torchrun on this node. `hidden`: a folder that it sees an empty one in place of.

        `ip netns exec` gives a mount namespace of its own, so nobody else misses the folder.
        """
        first = [f"hostname {self.name}"]
        if hidden is not None:
            first.append(f"mount -t tmpfs none {shlex.quote(str(hidden))}")
        script = " && ".join([*first, f"exec {shlex.join([*self.torchrun(port), *words])}"])
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", script]


ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def problem() -> str:
    """Why there can be no network namespaces here; empty if there can."""
    if missing := [tool for tool in ("ip", "unshare") if not shutil.which(tool)]:
        return f"{missing[0]} is not installed"
    try:
        with two_nodes():
            return ""
    except subprocess.CalledProcessError as error:
        return f"{shlex.join(error.cmd)}: {error.stderr.strip()}"


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes with a cable between them, and no other way out."""
    names = [f"caprl-{os.getpid()}-{i}" for i in range(2)]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ends = [["netns", name] for name in names]
        ip("link", "add", LINK, *ends[0], "type", "veth", "peer", "name", LINK, *ends[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", LINK)
            for device in ("lo", LINK):
                ip("-n", name, "link", "set", device, "up")
        a, b = (Node(n, f"node-{i}", ADDRESSES[i], i == 0) for i, n in enumerate(names))
        yield a, b


# --- runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """Runs of the demo's configuration on a small world."""

    out: Path
    settings: tuple[str, ...]

    def words(self, folder: Path, resume: bool = False) -> list[str]:
        words = ["--config", str(ROOT / "train_configs" / "demo.toml"), *self.settings]
        return [*words, f"--run.dir={folder}", *(["--resume"] if resume else [])]

    def one_node(self, folder: Path) -> Path:
        """Two ranks on this machine as it is, to the end."""
        process = self.start(self.words(folder), folder.with_suffix(".log"))
        with ended(process):
            finished(process, folder)
        return folder

    def on(
        self, nodes: Sequence[Node], folder: Path, resume: bool = False, hidden: bool = False
    ) -> list[subprocess.Popen]:
        """A rank on each node. `hidden`: the second does not see the folder of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        port, processes = free_port(), []
        for node in nodes:
            place = folder if hidden and not node.is_host else None
            log = folder.with_name(f"{folder.name}.{node.name}.log")
            words = self.words(folder, resume)
            processes.append(self.start_on(node, port, words, log, place))
        return processes

    def start(self, words: list[str], log: Path) -> subprocess.Popen:
        return self._start([*torchrun(2), "-m", MODULE, *words], log, self.environment())

    def start_on(
        self, node: Node, port: int, words: list[str], log: Path, hidden: Path | None
    ) -> subprocess.Popen:
        command = node.command(port, ["-m", MODULE, *words], hidden)
        return self._start(command, log, self.environment(node))

    def environment(self, node: Node | None = None) -> dict[str, str]:
        own = {"GLOO_SOCKET_IFNAME": LINK, "VLLM_HOST_IP": node.address} if node else {}
        return {**environment(), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **own}

    def _start(self, command: list[str], file: Path, variables: dict[str, str]) -> subprocess.Popen:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True
            )

    def logs(self, folder: Path) -> str:
        """What both nodes have printed."""
        files = sorted(folder.parent.glob(f"{folder.name}.node-*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def finish(self, processes: Sequence[subprocess.Popen], folder: Path, *, good: bool) -> float:
        """Waits for both nodes; returns the seconds. Raises RuntimeError if they end otherwise."""
        began = time.monotonic()
        with ExitStack() as stack:
            for process in processes:
                stack.enter_context(ended(process))
            codes = [process.wait(LIMIT_S) for process in processes]
        if any(codes) == good or (not good and not all(codes)):
            raise RuntimeError(f"the nodes ended with {codes}:\n{self.logs(folder)[-6000:]}")
        return time.monotonic() - began


def make_runs(out: Path, *settings: str, steps: int = 3) -> Runs:
    """The demo's pictures and clips, few of them, and the settings of all runs on them."""
    world = out / "world"
    command = [sys.executable, str(ROOT / "tools/make_demo_world.py"), f"--out={world}"]
    command += ["--images=36", "--videos=12", "--heldout-images=4", "--heldout-videos=2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    own = [f"--data.files=['{world}/train.jsonl']", f"--data.eval_files=['{world}/heldout.jsonl']"]
    models = [f"--policy.path={ROOT}/demo_models/policy"]
    models += [f"--reward.reader.path={ROOT}/demo_models/reader"]
    every = [f"--run.steps={steps}", "--run.save_every=1", "--run.keep=0"]
    every.append("--run.threads=1")  # else as many as cores per rank of a node: other rounding
    return Runs(out, (*own, *models, *every, *settings))


def killed_and_resumed(runs: Runs, nodes: Sequence[Node], folder: Path, step: int = 2) -> float:
    """Kills the second node's launcher and ranks after a step, and starts both again.

    Returns the seconds after which the first node had ended by itself.
    """
    first, second = runs.on(nodes, folder)
    with ended(first), ended(second):
        if not while_it_runs(lambda: steps_logged(folder) >= step, second):
            raise RuntimeError(f"ended before it was killed:\n{runs.logs(folder)[-6000:]}")
        kill(second, "all")
        seconds = runs.finish([first], folder, good=False)
    runs.finish(runs.on(nodes, folder, resume=True), folder, good=True)
    return seconds


def not_shared(runs: Runs, nodes: Sequence[Node], folder: Path) -> str:
    """What is said where the second node sees another folder under the name of run.dir."""
    runs.finish(runs.on(nodes, folder, hidden=True), folder, good=False)
    said = [t for t in runs.logs(folder).splitlines() if t.startswith("error: ")]
    if len(said) != 1:
        raise RuntimeError(f"not one message: {said}\n{runs.logs(folder)[-6000:]}")
    return said[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/two_nodes"))
    parser.add_argument("--steps", type=int, default=3)
    args, settings = parser.parse_known_args()
    if why := problem():
        sys.exit(f"error: no network namespaces: {why}")
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    runs = make_runs(out, *settings, steps=args.steps)
    one = runs.one_node(out / "one")
    bad = 0
    with two_nodes() as nodes:
        seconds = killed_and_resumed(runs, nodes, out / "killed")
        print(f"a node was killed; the other one had ended {seconds:.1f} s later", flush=True)
        bad += shown("two nodes, one killed, both resumed", differences(one, out / "killed"))
        runs.finish(runs.on(nodes, out / "two"), out / "two", good=True)
        bad += shown("two nodes", differences(one, out / "two"))
        print(not_shared(runs, nodes, out / "apart"), flush=True)
    raise SystemExit(1 if bad else 0)


def shown(what: str, wrong: list[str]) -> int:
    print(f"{what}: {'DIFFERS in ' + ', '.join(wrong) if wrong else 'equal to one'}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    main()
