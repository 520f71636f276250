"""Injects faults into a training run, and looks at what is left of it.

    python tools/attacks.py --out /tmp/attacks       # all of them, about half an hour on two cores
    python tools/attacks.py --only disk lock         # those with such a word in their names

A tiny captioner is trained on two ranks, by supervision ("sft") or by reinforcement ("rl"), once
undisturbed and once for each attack. After an attack the run must equal the undisturbed one, bit
for bit, when it goes on; or it must be refused with one sentence. Nothing may hang. It exits with
1 if anything went otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from attack_world import Target, Wrong, ends, loader_workers, make_targets, ranks_of
from kill_resume import ended, kill, steps_logged

from caprl_native.checkpoint_files import directory, steps
from caprl_native.distributed.signals import PREEMPTION

Attack = Callable[[Target], str]
ATTACKS: dict[str, tuple[str, Attack]] = {}  # name -> which target, what to do


def attack(name: str, *targets: str) -> Callable[[Attack], Attack]:
    """Puts an attack on the list, once for each of the targets."""

    def register(function: Attack) -> Attack:
        for target in targets:
            ATTACKS[f"{name} ({target})"] = (target, function)
        return function

    return register


# --- processes that are killed ----------------------------------------------------------------


def killed(run: Target, victim: str) -> str:
    """Kills ranks or launcher in the middle, then goes on from the last checkpoint."""
    process = run.start()
    with ended(process):
        run.at(run.steps // 2 + 1, process)
        kill(process, victim)
    return run.exact()


@attack("all processes are killed", "sft", "rl")
def all_killed(run: Target) -> str:
    return killed(run, "all")


@attack("a rank is killed", "sft", "rl")
def rank_killed(run: Target) -> str:
    return killed(run, "rank")


@attack("the launcher is killed", "sft")
def launcher_killed(run: Target) -> str:
    return killed(run, "launcher")


@attack("a loader worker is killed", "sft", "rl")
def worker_killed(run: Target) -> str:
    process = run.start()
    with ended(process):
        run.at(1, process)
        while process.poll() is None and not (workers := loader_workers(process)):
            time.sleep(0.01)
        workers[0].kill()
        if code := ends(process):
            raise Wrong(f"ended with {code}:\n{run.log()[-3000:]}")
    if run.log().count("killed by signal 9 (SIGKILL): out of memory?") != 1:
        raise Wrong("nothing was said of it")
    return run.same() + ", started again by itself"


@attack("loader workers are killed again and again", "sft")
def workers_killed(run: Target) -> str:
    process = run.start()
    with ended(process):
        run.at(1, process)
        while process.poll() is None:
            for worker in loader_workers(process)[:1]:
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.05)
        said = run.refused(process, "out of memory?")  # in words for a start, or for later
    resume = "latest" if steps(run.folder / "checkpoints") else ""
    return f"{run.exact('--run.overwrite=true', resume=resume)}, after: {said}"


@attack("killed in a save", "sft", "rl")
def killed_in_a_save(run: Target) -> str:
    process, second = run.start(), steps(run.unbroken / "checkpoints")[1]
    with ended(process):
        folder = directory(run.folder / "checkpoints", second)
        run.until(lambda: folder.with_suffix(".tmp").exists() or folder.exists(), process)
        kill(process, "all")
    return run.exact()


@attack("killed in the export", "sft", "rl")
def killed_in_the_export(run: Target) -> str:
    process = run.start()
    with ended(process):
        run.until(lambda: any(run.folder.glob("export*")), process)
        kill(process, "all")
    return run.exact()


# --- signals ----------------------------------------------------------------------------------


def stopped(run: Target, number: signal.Signals, to_launcher: bool = False) -> str:
    """One signal: the step is finished and saved, and the run goes on later.

    The exit code is 0 for a scheduler's signal to a rank; torchrun's own is 1 for any to itself.
    """
    process = run.start()
    with ended(process):
        run.at(3, process)
        target = process.pid if to_launcher else ranks_of(process)[1].pid
        os.kill(target, number)
        words = (number.name, "go on with --resume")
        good = number in PREEMPTION and not to_launcher
        said = run.ended(process, "stopped: ", *words, good=good)
    logged, saved = steps_logged(run.folder), steps(run.folder / "checkpoints")
    if saved[-1] != logged or logged == run.steps or (run.folder / "export").exists():
        raise Wrong(f"{logged} steps logged, {saved} saved")
    return f"{run.exact()}, after: {said}"


@attack("SIGTERM to one rank", "sft", "rl")
def sigterm_to_a_rank(run: Target) -> str:
    return stopped(run, signal.SIGTERM)


@attack("SIGUSR1 to one rank", "sft")
def sigusr1_to_a_rank(run: Target) -> str:
    return stopped(run, signal.SIGUSR1)


@attack("SIGINT to one rank", "sft")
def sigint_to_a_rank(run: Target) -> str:
    return stopped(run, signal.SIGINT)


@attack("SIGHUP to the launcher", "sft")
def sighup_to_the_launcher(run: Target) -> str:
    return stopped(run, signal.SIGHUP, to_launcher=True)


@attack("SIGTERM while it loads", "sft", "rl")
def signal_while_loading(run: Target) -> str:
    process, began = run.start(), time.monotonic()
    with ended(process):
        run.until(lambda: (run.folder / ".lock").exists(), process)
        ranks_of(process)[0].send_signal(signal.SIGTERM)
        if not (code := ends(process)):
            raise Wrong("ended with 0")
    seconds = time.monotonic() - began
    return f"{run.exact(resume='')}, after exit code {code} ({seconds:.0f} s)"


# --- a full disk ------------------------------------------------------------------------------


@attack("the disk is full: a checkpoint", "sft", "rl")
def full_disk_in_a_save(run: Target) -> str:
    first = directory(run.folder / "checkpoints", steps(run.unbroken / "checkpoints")[0])
    process = run.start(file_limit=300_000)  # metrics and captions are smaller
    said = run.refused(process, first.name, "cannot be written")
    if run.folder.joinpath("export").exists() or any((run.folder / "checkpoints").iterdir()):
        raise Wrong("something of the checkpoint was left")
    return f"{run.exact('--run.overwrite=true', resume='')}, after: {said}"


@attack("the disk is full: metrics", "sft")
def full_disk_in_the_metrics(run: Target) -> str:
    process = run.start("--run.save_every=0", file_limit=0)
    with ended(process):
        run.at(3, process)
        # A limit holds for what a rank says, too: the log must still have room for its last words.
        limit = len(run.log().encode()) + 2000
        for rank in ranks_of(process):
            resource.prlimit(rank.pid, resource.RLIMIT_FSIZE, (limit, limit))
        said = run.refused(process, "metrics.jsonl cannot be written: File too large")
    return f"{run.exact('--run.overwrite=true', resume='')}, after: {said}"


@attack("the disk is full: the export", "sft", "rl")
def full_disk_in_the_export(run: Target) -> str:
    copied(run)
    shutil.rmtree(run.folder / "export")
    process = run.start(resume="latest", file_limit=300_000)
    said = run.refused(process, "export cannot be written")
    if any(run.folder.glob("export*")):
        raise Wrong("something of the export was left")
    return f"{run.exact()}, after: {said}"


# --- checkpoints that are not what was saved --------------------------------------------------


def copied(run: Target) -> list[Path]:
    """Puts a copy of the undisturbed run in the folder; returns its checkpoints, oldest first."""
    shutil.copytree(run.unbroken, run.folder)
    root = run.folder / "checkpoints"
    return [directory(root, step) for step in steps(root)]


def damaged(run: Target, spoil: Callable[[Path], None], *words: str) -> str:
    """Resuming from what is spoilt is refused, and from the one that is named it is exact."""
    *_, older, last = copied(run)
    spoil(last)
    said = run.refused(run.start(resume="latest"), last.name, *words, f"--resume {_step(older)}")
    return f"{run.exact(resume=_step(older))}, after: {said}"


def _step(folder: Path) -> str:
    return str(int(folder.name.removeprefix("step_")))


@attack("64 flipped bytes in a checkpoint", "sft", "rl")
def flipped_bytes(run: Target) -> str:
    def flip(folder: Path) -> None:
        file = max(folder.glob("shards/*.distcp"), key=lambda f: f.stat().st_size)
        data = bytearray(file.read_bytes())
        for i in range(len(data) // 2, len(data) // 2 + 64):
            data[i] ^= 0xFF
        file.write_bytes(data)

    return damaged(run, flip, "is damaged", ".distcp is not what was saved")


@attack("a truncated checkpoint", "sft")
def truncated(run: Target) -> str:
    def cut(folder: Path) -> None:
        file = max(folder.glob("shards/*.distcp"), key=lambda f: f.stat().st_size)
        os.truncate(file, file.stat().st_size // 2)

    return damaged(run, cut, "is damaged", ".distcp is not what was saved")


@attack("a checkpoint that would run a program", "sft")
def malicious(run: Target) -> str:
    made = run.folder.with_suffix(".made")

    class Harm:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(made),)

    def forge(folder: Path) -> None:
        data = pickle.dumps(Harm())
        (folder / "shards/.metadata").write_bytes(data)
        manifest = json.loads((folder / "manifest.json").read_text())
        sha = hashlib.sha256(data).hexdigest()
        manifest["files"]["shards/.metadata"] = [len(data), sha]
        (folder / "manifest.json").write_text(json.dumps(manifest))

    *_, older, last = copied(run)
    forge(last)
    said = run.refused(run.start(resume="latest"), ".metadata is not loaded")
    if made.exists():
        raise Wrong("the program was run")
    return f"{run.exact(resume=_step(older))}, after: {said}"


@attack("folders that are no checkpoints", "sft")
def foreign(run: Target) -> str:
    *_, older, last = copied(run)
    shutil.copytree(older, older.with_name(older.name + "_backup"))
    shutil.copytree(older, older.with_name("step_2_1"))
    (last / "state.json").unlink()
    result = run.exact()
    if f"{last} has no state.json" not in run.log() or "_backup has a name" not in run.log():
        raise Wrong(f"not a word of them:\n{run.log()[-3000:]}")
    return f"{result} from step {_step(older)}, and they are named"


@attack("a checkpoint copied under another step's name", "sft")
def copied_step(run: Target) -> str:
    *_, last = copied(run)
    shutil.copytree(last, last.with_name("step_00000099"))
    said = run.refused(
        run.start(resume="latest"), "step_00000099", "copy of step", f"--resume {_step(last)}"
    )
    return f"{run.exact(resume=_step(last))}, after: {said}"


# --- folders, data and settings ---------------------------------------------------------------


@attack("a second run in a locked folder", "sft")
def locked(run: Target) -> str:
    process = run.start()
    with ended(process):
        run.until(lambda: (run.folder / ".lock").exists(), process)
        first = run.heard
        log = run.folder.with_suffix(".log")
        other = run.start()
        said = run.refused(other, "is in use by process")
        run.heard, code = first, ends(process)
    if code:
        raise Wrong(f"the first ended with {code}:\n{log.read_text()[-3000:]}")
    return f"{run.same()} (the first), the second: {said}"


@attack("a fresh run in a finished one's folder", "sft", "rl")
def used_folder(run: Target) -> str:
    copied(run)
    said = run.refused(run.start(), "holds a run", "--resume", "--run.overwrite=true")
    return f"{run.same()}, after: {said}"


@attack("other data under the same ids", "sft")
def other_data(run: Target) -> str:
    *_, older, _ = copied(run)
    data = run.unbroken.parents[1] / "world/data.jsonl"
    spoilt = run.folder.with_suffix(".jsonl")
    spoilt.write_text(data.read_text().replace("the picture", "a picture"))
    given = (f"--data.files=['{spoilt}']", f"--data.media_root={data.parent}")
    said = run.refused(run.start(*given, resume=_step(older)), "the responses of data.files")
    return f"{run.exact(resume=_step(older))}, after: {said}"


@attack("weights that are not finite", "sft", "rl")
def not_finite(run: Target) -> str:
    *_, older, last = copied(run)
    shutil.rmtree(last)
    shutil.rmtree(run.folder / "export")
    process = run.start("--policy.lr=1e39", resume=_step(older))
    said = run.refused(process, "not finite after the optimizer's step")
    saved = steps(run.folder / "checkpoints")
    if str(saved[-1]) != _step(older) or (run.folder / "export").exists():
        raise Wrong(f"saved {saved}")
    return f"{run.exact()}, after: {said}"


# --- the trial --------------------------------------------------------------------------------


def trial(name: str, run: Target, what: Attack, folder: Path) -> bool:
    """Whether an attack ended as it should; prints its line."""
    run.folder, run.heard = folder, 0
    began = time.monotonic()
    try:
        verdict, good = what(run), True
    except (Wrong, subprocess.SubprocessError, psutil.Error, RuntimeError, OSError) as error:
        verdict, good = f"WRONG: {error}", False
    print(f"{time.monotonic() - began:5.0f} s  {name}: {verdict}", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/attacks"))
    parser.add_argument("--only", nargs="+", default=[""], help="words of the attacks' names")
    args = parser.parse_args()
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    chosen = {n: a for n, a in ATTACKS.items() if any(word in n for word in args.only)}
    targets = make_targets(out, {target for target, _ in chosen.values()})
    good = 0
    for i, (name, (target, what)) in enumerate(chosen.items()):
        good += trial(name, targets[target], what, out / target / f"Nacht {i} ✓")
    print(f"{good} of {len(chosen)} attacks ended as they should")
    raise SystemExit(0 if good == len(chosen) else 1)


if __name__ == "__main__":
    main()
