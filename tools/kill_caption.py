"""Kills a captioning job and its actors at random moments, and proves what came of every input.

    python tools/kill_caption.py --images 20000 --videos 500 --kills 10 --replicas 2

Makes the pictures and clips, then captions them with copies of a model as Ray actors. At moments
that are spread over the whole job it kills -9 either the driver, which is started again (every
other time with another number of copies), or an actor. Afterwards every input must be in the output
exactly once, in order, nothing else, the manifest must say the same, and some of the captions must
be those of an undisturbed run, to the letter. It exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from PIL import Image  # noqa: E402
from tqdm import tqdm  # noqa: E402

from caprl_native.inference.jobs.ledger import read_manifest  # noqa: E402
from caprl_native.testing.media_files import write_mp4  # noqa: E402

ACTOR = "ray::_Worker"  # how Ray calls the process of a copy
SETTINGS = ["--captioner.dtype=float32", "--captioner.kv_cache_gib=0.5", "--run.progress=false"]
SETTINGS += ["--captioner.max_model_len=512", "--max-tokens=48"]
POLL_S = 0.2


def make_world(folder: Path, images: int, videos: int) -> None:
    """Pictures of 64 x 64 and clips of 8 frames, every one another; those that are there stay."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(images), desc="pictures"):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / f"images/{i // 1000:02d}/{i:06d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(path)
    for i in tqdm(range(videos), desc="clips"):
        frames = rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        path = folder / f"videos/{i:04d}.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mp4(path, list(frames), fps=4)


@dataclass
class Job:
    """The captioning command; its driver is started as often as it is killed."""

    world: Path
    output: Path
    model: Path
    others: list[str]
    deaths: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> Path:
        return self.output.with_name(self.output.name + ".work")

    def start(self, replicas: int, limit: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "tools/caption.py", "--model", str(self.model)]
        command += ["--input", str(self.world), "--output", str(self.output)]
        command += [f"--run.replicas={replicas}", f"--input.limit={limit}"]
        with self.output.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [*command, *SETTINGS, *self.others], cwd=ROOT, stdout=log, stderr=log
            )

    def done(self) -> int:
        """Results in files."""
        files = [*self.work.glob("chunks/*/*.jsonl"), *self.work.glob("open/*.jsonl")]
        return sum(f.read_bytes().count(b"\n") for f in files if f.exists())


def actors(driver: int) -> list[psutil.Process]:
    """The processes of the copies of a driver's model."""
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in below:
        try:
            if process.name().startswith(ACTOR) or ACTOR in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it has ended in the meantime
    return found


def disturb(job: Job, total: int, kills: int, replicas: int, rng: random.Random) -> int:
    """Runs the job to its end, killing on the way; returns the last exit code."""
    moments = sorted(rng.uniform(0.02, 0.97) * total for _ in range(kills))
    process, starts = job.start(replicas), 1
    for moment in moments:
        while process.poll() is None and job.done() < moment:
            time.sleep(POLL_S)
        time.sleep(rng.uniform(0, 1))
        copies = actors(process.pid)
        if process.poll() is not None:
            return process.returncode
        if copies and rng.random() < 0.5:
            rng.choice(copies).kill()
            job.deaths["actor"] += 1
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            job.deaths["driver"] += 1
            process, starts = job.start(1 + (replicas + starts - 1) % replicas), starts + 1
        print(f"{job.done():,} of {total:,} done: {dict(job.deaths)} killed", flush=True)
    return process.wait()


def problems(job: Job, inputs: list[str]) -> list[str]:
    """What is wrong with the output and the manifest."""
    lines = [json.loads(line) for line in job.output.open(encoding="utf-8")]
    found = Counter(line["id"] for line in lines)
    manifest = list(read_manifest(job.work))
    chunks = Counter(closed.chunk for closed in manifest)
    checks = {
        "inputs that are not in the output": len(set(inputs) - set(found)),
        "outputs of no input": len(set(found) - set(inputs)),
        "inputs that are there more than once": sum(n > 1 for n in found.values()),
        "captions that are empty": sum(not line["caption"].strip() for line in lines),
        "not in the input's order": int([line["id"] for line in lines] != inputs),
        "chunks of the manifest that are there more than once": sum(n > 1 for n in chunks.values()),
        "chunks that the manifest lacks": len(set(range(max(chunks) + 1)) - set(chunks)),
        "entries of the manifest": abs(sum(c.entries for c in manifest) - len(inputs)),
        "failures in the manifest": sum(c.failed for c in manifest),
    }
    return [f"{count:,} {what}" for what, count in checks.items() if count]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "demo_models/policy")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--compared", type=int, default=256, help="captions of an undisturbed run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/kill_caption")
    args, others = parser.parse_known_args()
    world = args.out / "world"
    shutil.rmtree(args.out / "run", ignore_errors=True)
    (args.out / "run").mkdir(parents=True)
    make_world(world, args.images, args.videos)
    inputs = sorted(str(p.relative_to(world)) for p in world.glob("*/**/*") if p.is_file())
    job = Job(world, args.out / "run/captions.jsonl", args.model, others)
    began = time.monotonic()
    code = disturb(job, len(inputs), args.kills, args.replicas, random.Random(args.seed))
    seconds = time.monotonic() - began
    print(f"exit code {code}, {seconds:.0f} s, {dict(job.deaths)} killed", flush=True)
    wrong = problems(job, inputs) if code == 0 else [f"exit code {code}"]
    if sum(job.deaths.values()) < args.kills:
        wrong.append(f"only {sum(job.deaths.values())} of {args.kills} kills took place")
    if not wrong:
        alone = Job(world, args.out / "run/alone.jsonl", args.model, others)
        alone.start(1, args.compared).wait()
        pairs = zip(job.output.open(), alone.output.open(), strict=False)
        captions = [(json.loads(a)["caption"], json.loads(b)["caption"]) for a, b in pairs]
        differ = sum(a != b for a, b in captions)
        print(f"{len(captions):,} captions of an undisturbed run: {differ} differ")
        wrong += [f"{differ} captions differ"] if differ or not captions else []
    print("\n".join(wrong) or f"{len(inputs):,} inputs, each exactly once")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
