"""Kills and restarts the reward service under a training run; the run must not be able to tell.

    python tools/kill_service.py --steps 3 --kills 2

Trains against a service that nobody disturbs, then again while the service, its models and all, is
killed whenever it is scoring and is started again. Metrics (times aside), captions with their
rewards and readings, and final weights must agree bit for bit; it exits with 1 if anything differs.
With --in-process the same run with the reader in its own process is compared, too. Settings that
are not of the tool itself go to every run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kill_resume import ROOT, Plan, differences, ended, finished, row, run_unbroken

sys.path.insert(0, str(ROOT))  # works without an installation

from caprl_native.testing.reward_server import RewardServer, reward_server  # noqa: E402

READER = """
dtype = "float32"
max_tokens = 10
max_model_len = 256
kv_cache_gib = 0.5
"""
TABLE = ("run", "seconds", "kills", "metrics", "captions", "weights")


class Killer:
    """Kills the server while it scores, and starts it again, a number of times."""

    def __init__(self, server: RewardServer, kills: int, seed: int) -> None:
        self.server, self.left, self.done = server, kills, 0
        self._rng, self._ending = random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self.done < self.left and not self._ending.is_set():
            if not self._is_scoring():
                time.sleep(0.005)
                continue
            time.sleep(self._rng.uniform(0, 0.2))
            self.server.kill()
            self.done += 1
            time.sleep(self._rng.uniform(0, 2))
            self.server.start()
            self._ending.wait(self._rng.uniform(0, 2))

    def _is_scoring(self) -> bool:
        status, text = self.server.get("/health")
        return status == 200 and json.loads(text)["in_flight"] > 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._thread.join()


def world(folder: Path) -> Path:
    """Pictures, clips and questions of the demo, a few."""
    command = [sys.executable, "tools/make_demo_world.py", f"--out={folder}", "--images=48"]
    command += ["--videos=16", "--heldout-images=4", "--heldout-videos=4"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", default=["train_configs/demo.toml"])
    parser.add_argument("--reader", type=Path, default=ROOT / "demo_models/reader")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("outputs/kill_service"))
    args, others = parser.parse_known_args()
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    data = world(out / "world")
    settings = [
        f"--data.files=['{data}/train.jsonl']",
        f"--data.eval_files=['{data}/heldout.jsonl']",
    ]
    settings += [f"--run.steps={args.steps}", "--run.save_every=0", *others]
    reader = f'\n[reward.reader]\npath = "{args.reader.resolve()}"{READER}'
    with reward_server(f"[server]\n{reader}", out) as server:
        served = ["--reward.terms.accuracy.type=service"]
        served.append(f"--reward.terms.accuracy.endpoint={server.url}")
        return compare(
            args, out, Plan(tuple(args.config), (*settings, *served), args.ranks), server
        )


def compare(args: argparse.Namespace, out: Path, plan: Plan, server: RewardServer) -> int:
    """Runs and compares; the number of runs that differ."""
    print(row(TABLE), flush=True)
    seconds = run_unbroken(plan, out / "unbroken")[-1]
    print(row(("undisturbed", f"{seconds:.0f}", "0", "", "", "")), flush=True)
    killer, began = Killer(server, args.kills, args.seed), time.monotonic()
    process = plan.start(out / "disturbed")
    with ended(process), killer.at_work():
        finished(process, out / "disturbed")
    seconds = time.monotonic() - began
    bad = told("disturbed", seconds, killer.done, out)
    if args.in_process:
        here = Plan(plan.files, plan.settings[:-2], plan.ranks)
        bad += told("in_process", run_unbroken(here, out / "in_process")[-1], 0, out)
    return bad


def told(name: str, seconds: float, kills: int, out: Path) -> int:
    """Prints a row; 1 where the run differs from the undisturbed one."""
    wrong = differences(out / "unbroken", out / name)
    verdicts = ["DIFFER" if what in wrong else "equal" for what in TABLE[-3:]]
    print(row((name, f"{seconds:.0f}", str(kills), *verdicts)), flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
