"""Kills a training run at random moments, resumes it, and compares it with one that was left alone.

    python tools/kill_resume.py --config train_configs/demo.toml --kills 10 --seed 0 --run.steps 6

Metrics (times aside), captions, the reader's answers, final weights and optimizer state must agree
bit for bit; it exits with 1 if anything differs. Moments are spread over the whole life of the run,
every third kill hits a checkpoint that is being written. All processes, one rank, and the launcher
are killed in turn. Settings that are not of the tool itself go to every run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from launch import torchrun

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation

from caprl_native import checkpoint  # noqa: E402
from caprl_native.observe.rollout_index import FOLDERS  # noqa: E402

POLL_S = 0.002
VICTIMS = ("all", "rank", "launcher")


@dataclass(frozen=True)
class Plan:
    """What every run of a trial has in common."""

    files: tuple[str, ...]
    settings: tuple[str, ...] = ()
    ranks: int = 2
    module: str = "caprl_native.train"

    def start(self, folder: Path, resume: bool = False, over: bool = True) -> subprocess.Popen:
        """Starts training into `folder`; its output goes to `<folder>.log`.

        `over`: what is there is put aside, unless it is resumed.
        """
        command = [*torchrun(self.ranks), "-m", self.module, "--config", *self.files]
        command += [*self.settings, f"--run.dir={folder}"]
        command += again(folder, resume) if over or resume else []
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment()
            )


def again(folder: Path, resume: bool) -> list[str]:
    """How a run goes on in its folder, or starts over where there is one."""
    if resume:
        return ["--resume"]
    return ["--run.overwrite=true"] if folder.exists() else []


def environment() -> dict[str, str]:
    """This process's environment, with the package on the path."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Moment:
    """`delay` seconds after `step` was logged (0: after the start).

    With `saving`: after the first byte of that step's checkpoint.
    """

    step: int
    delay: float
    saving: bool = False
    victim: str = "all"


def steps_logged(folder: Path) -> int:
    """The last training step in metrics.jsonl; 0 if there is none."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    done = [0]
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # being written
            continue
        if "policy/loss" in record:
            done.append(record["step"])
    return max(done)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> bool:
    """Whether the condition came true while the process ran."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(POLL_S)
    return False


def run_unbroken(plan: Plan, folder: Path) -> list[float]:
    """Runs to the end; returns the seconds at which each step was logged, and of the end.

    Raises:
        RuntimeError: the run failed.
    """
    process, began, times = plan.start(folder), time.monotonic(), []
    with ended(process):
        while process.poll() is None:
            while steps_logged(folder) > len(times):
                times.append(time.monotonic() - began)
            time.sleep(0.02)
        finished(process, folder)
    return [*times, time.monotonic() - began]


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leaves nothing running when the block is left early."""
    try:
        yield
    finally:
        if process.poll() is None:
            kill(process, "all")


def finished(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Waits for the end. Raises RuntimeError with the last of the log unless it is a good one."""
    if process.wait():
        tail = folder.with_suffix(".log").read_text(errors="replace")[-4000:]
        raise RuntimeError(f"the run in {folder} ended with {process.returncode}:\n{tail}")


def kill(process: subprocess.Popen[bytes], victim: str) -> None:
    """SIGKILL to the victim; returns when every process of the run is gone.

    Raises:
        RuntimeError: what was not killed lives on for more than a minute.
    """
    launcher = psutil.Process(process.pid)
    family = [launcher, *launcher.children(recursive=True)]
    ranks = [p for p in launcher.children() if p.is_running()]
    targets = {"all": family, "rank": ranks[-1:] or [launcher], "launcher": [launcher]}[victim]
    for target in targets:
        try:
            target.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(60)
    deadline = time.monotonic() + 60
    while alive := [p for p in family if _lives(p)]:
        if time.monotonic() > deadline:
            for left in alive:
                left.kill()
            raise RuntimeError(f"processes outlived the {victim} that was killed: {alive}")
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that has died and waits for its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_at(plan: Plan, folder: Path, moment: Moment, resume: bool = False) -> bool:
    """Starts a run and kills it at the moment; False: it had come to its end before."""
    process = plan.start(folder, resume)
    begun = checkpoint.directory(folder / "checkpoints", moment.step)
    with ended(process):
        if moment.saving:
            there = [begun.with_suffix(".tmp"), begun]
            reached = wait_for(lambda: any(d.exists() for d in there), process)
        else:
            reached = wait_for(lambda: steps_logged(folder) >= moment.step, process)
        if reached:
            began = time.monotonic()
            reached = wait_for(lambda: time.monotonic() - began >= moment.delay, process)
        if reached:
            kill(process, moment.victim)
        else:
            finished(process, folder)
    return reached


# --- comparison -------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what is measured with a clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timed = ("time/", "perf/", "eval/time_s")
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(timed)} for line in lines
    ]


def captions(folder: Path) -> dict[str, str]:
    """The rollout logs, and what captions have left for later prompts, word for word."""
    files = [file for kind in FOLDERS for file in folder.glob(f"{kind}/*.jsonl")]
    files += [*folder.glob("history/*.json"), *folder.glob("memory_log/*/*.json")]
    return {str(f.relative_to(folder)): f.read_text() for f in files}


def final_state(folder: Path) -> dict[str, Any]:
    """Weights and optimizer state of the last checkpoint, whole, by dotted name."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    root = folder / "checkpoints"
    last = checkpoint.directory(root, checkpoint.steps(root)[-1])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "state.pt")
        dcp_to_torch_save(last / "shards", file)
        state = torch.load(file, weights_only=False)
    return {"step": last.name, **_flat(state)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}").items()}


def weights_equal(a: Path, b: Path) -> bool:
    """Whether last checkpoints and exported files hold the same bits."""
    one, two = final_state(a), final_state(b)
    if one.keys() != two.keys():
        return False
    for name, value in one.items():
        other = two[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if not same:
            return False
    return exports(a, b) == exports(b, a)


def exports(folder: Path, other: Path) -> dict[str, bytes]:
    """A run's exported weights: at its end, and in the checkpoints that the other run has as well.

    An interrupted run has one where it stopped, and may lack one where the other was saved.
    """
    files = [*folder.glob("export/*.safetensors")]
    for step in folder.glob("checkpoints/step_*[0-9]"):
        if (other / "checkpoints" / step.name).exists():
            files += step.glob("hf/*.safetensors")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def differences(a: Path, b: Path) -> list[str]:
    """What two runs disagree on: any of "metrics", "captions", "weights"."""
    checks = {
        "metrics": lambda: metrics(a) == metrics(b),
        "captions": lambda: captions(a) == captions(b),
        "weights": lambda: weights_equal(a, b),
    }
    return [name for name, equal in checks.items() if not equal()]


# --- the trial --------------------------------------------------------------------------------


def moments(times: list[float], saves: list[int], save_s: float, n: int, seed: int) -> list[Moment]:
    """n moments, one in each n-th of the run's life; every third in the writing of a checkpoint.

    `times`: of each logged step and of the end; `saves`: steps that are saved.
    """
    rng = random.Random(seed)
    chosen = []
    for i in range(n):
        victim = VICTIMS[i % len(VICTIMS)]
        if i % 3 == 2 and saves:
            step = rng.choice(saves)
            chosen.append(Moment(step, rng.uniform(0, save_s), True, victim))
            continue
        at = times[-1] * rng.uniform(i / n, (i + 1) / n)
        step = sum(t <= at for t in times[:-1])
        chosen.append(Moment(step, at - (times[step - 1] if step else 0.0), False, victim))
    return chosen


def trial(plan: Plan, unbroken: Path, folder: Path, moment: Moment) -> list[str]:
    """Kills a run at the moment, resumes it, and compares: a row of the table."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    while not kill_at(plan, folder, moment):  # it was faster than the unbroken run
        moment = Moment(moment.step, moment.delay / 2, moment.saving, moment.victim)
        shutil.rmtree(folder)
        began = time.monotonic()
    seconds, reached = time.monotonic() - began, steps_logged(folder)
    saved = checkpoint.steps(folder / "checkpoints")
    finished(plan.start(folder, resume=bool(saved)), folder)
    wrong = differences(unbroken, folder)
    verdicts = ["DIFFER" if what in wrong else "equal" for what in TABLE[-3:]]
    when = f"{reached}{' (saving)' if moment.saving else ''}"
    source = f"step {saved[-1]}" if saved else "the start"
    return [f"{seconds:.1f}", moment.victim, when, source, *verdicts]


TABLE = ("killed after s", "what", "step", "resumed from", "metrics", "captions", "weights")


def row(cells: list[str] | tuple[str, ...]) -> str:
    return "  ".join(f"{cell:<15}" for cell in cells).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", required=True, help="TOML files of the run")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/kill_resume"))
    args, settings = parser.parse_known_args()
    plan = Plan(tuple(args.config), tuple(settings), args.ranks)
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    unbroken = out / "unbroken"
    times = run_unbroken(plan, unbroken)
    print(f"unbroken: {len(times) - 1} steps, {times[-1]:.1f} s", flush=True)
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    save_s = statistics.median([r["time/save"] for r in lines if "time/save" in r] or [0.5])
    saved = checkpoint.steps(unbroken / "checkpoints")
    bad = 0
    print(row(TABLE), flush=True)
    for i, moment in enumerate(moments(times, saved, save_s, args.kills, args.seed)):
        cells = trial(plan, unbroken, out / f"kill_{i}", moment)
        bad += "DIFFER" in cells
        print(row(cells), flush=True)
    print(f"{args.kills - bad} of {args.kills} runs equal the unbroken one")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
