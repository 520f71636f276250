"""A captioning job over a list of millions of lines: how soon it begins, and the driver's memory.

    python benchmarks/long_list.py --lines 5000000 --replicas 2 --seconds 90

The list names one picture under as many ids. The job runs for a while and is then stopped as by
Ctrl-C; what counts is when its first caption is in a file, after the start and after the first copy
of the model is ready, and how large the driver's process becomes.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, machine
from PIL import Image
from tqdm import tqdm


def write_list(folder: Path, lines: int) -> Path:
    """`list.jsonl` with so many ids of one picture."""
    Image.new("RGB", (64, 64), (200, 30, 60)).save(folder / "picture.png")
    path = folder / "list.jsonl"
    with path.open("w") as file:
        for i in tqdm(range(lines), desc="list", unit_scale=True):
            file.write(f'{{"id": "entry-{i:09d}", "image": "picture.png"}}\n')
    return path


def results(work: Path) -> int:
    files = [*work.glob("open/*.jsonl"), *work.glob("chunks/*/*.jsonl")]
    return sum(f.read_bytes().count(b"\n") for f in files if f.exists())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=90.0, help="after the first caption")
    parser.add_argument("--model", type=Path, default=ROOT / "demo_models/policy")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_list(folder, args.lines)
        print(json.dumps(measure(folder, path, args) | {"machine": machine()}, indent=1))


def measure(folder: Path, path: Path, args: argparse.Namespace) -> dict[str, float | int]:
    """Seconds until the first result, after the start; the driver's peak and last size in MiB."""
    output = folder / "captions.jsonl"
    command = [sys.executable, str(ROOT / "tools/caption.py"), "--model", str(args.model)]
    command += ["--input", str(path), "--output", str(output), f"--run.replicas={args.replicas}"]
    command += ["--captioner.dtype=float32", "--captioner.kv_cache_gib=0.5", "--max-tokens=48"]
    command += ["--captioner.max_model_len=512", "--run.progress=false"]
    began, first, peak, last = time.monotonic(), 0.0, 0, 0
    with (folder / "log").open("wb") as log:
        job = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        driver = psutil.Process(job.pid)
        while not first or time.monotonic() - began - first < args.seconds:
            if job.poll() is not None:
                raise SystemExit(f"the job ended: {(folder / 'log').read_text()[-2000:]}")
            last = driver.memory_info().rss
            peak = max(peak, last)
            if not first and results(output.with_name(output.name + ".work")):
                first = time.monotonic() - began
            time.sleep(0.25)
        job.send_signal(signal.SIGINT)
        code = job.wait()
    status = json.loads((output.with_name(output.name + ".work") / "status.json").read_text())
    return {
        "lines": args.lines,
        "seconds_to_first_caption": round(first, 1),
        "driver_peak_mib": peak >> 20,
        "driver_last_mib": last >> 20,
        "captions": status["done"],
        "exit_code": code,
    }


if __name__ == "__main__":
    main()
