"""Resident memory of a training run over many tiny steps: is it flat?

    python benchmarks/memory_flat.py --steps 200
    python benchmarks/memory_flat.py --cache 1024     # oneDNN's own default, for comparison

One rank on a CPU, policy and reader in process; pictures and captions of ever new sizes. Exits with
1 if memory after step 50 is ever more than 5% above what it was at step 50.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tools")]

import psutil  # noqa: E402
from attack_world import ranks_of, rl_config, write_world  # noqa: E402
from kill_resume import Plan, ended, steps_logged  # noqa: E402

from caprl_native.config.cli import dump  # noqa: E402
from caprl_native.testing.tiny_models import write_tiny_reader, write_tiny_vlm  # noqa: E402

SETTLED, BOUND = 50, 1.05
POLL_S = 0.05


def start(out: Path, steps: int) -> subprocess.Popen:
    """Starts the run."""
    policy, reader = write_tiny_vlm(out / "policy"), write_tiny_reader(out / "reader")
    config = rl_config(policy, reader)
    config.data.files = [str(write_world(out / "world", records=200, sizes=range(32, 161, 4)))]
    config.data.batch_size, config.data.workers, config.data.max_prompt_tokens = 4, 0, 200
    config.media.image_min_pixels, config.media.image_max_pixels = 32 * 32, 160 * 160
    config.rollout.max_tokens, config.rollout.max_model_len = 48, 256
    config.run.steps, config.run.epochs = steps, 0
    config.run.save_every, config.run.export = 0, False
    config.log.wandb, config.log.progress, config.policy.lr = "disabled", False, 1e-6
    (out / "run.toml").write_text(dump(config))
    return Plan((str(out / "run.toml"),), ranks=1).start(out / "run")


def resident(process: subprocess.Popen, folder: Path, steps: int) -> dict[int, float]:
    """MB of the rank's memory at each step, until the last."""
    found: dict[int, float] = {}
    while process.poll() is None and steps not in found:
        step = steps_logged(folder)
        if step and step not in found:
            try:
                found[step] = ranks_of(process)[0].memory_info().rss / 1e6
            except (psutil.NoSuchProcess, IndexError):
                break
            if step == 1 or step % 10 == 0:
                print(f"step {step:4d}  {found[step]:7.0f} MB", flush=True)
        time.sleep(POLL_S)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cache", type=int, help="ONEDNN_PRIMITIVE_CACHE_CAPACITY; else ours")
    args = parser.parse_args()
    if args.cache:
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(args.cache)
    with tempfile.TemporaryDirectory() as folder:
        process = start(Path(folder), args.steps)
        with ended(process):
            found = resident(process, Path(folder, "run"), args.steps)
        if args.steps not in found:
            sys.exit(Path(folder, "run.log").read_text(errors="replace")[-4000:])
    settled = next(found[s] for s in sorted(found) if s >= min(SETTLED, args.steps))
    highest = max(mb for step, mb in found.items() if step >= min(SETTLED, args.steps))
    print(f"at step {SETTLED}: {settled:.0f} MB, highest later: {highest / settled - 1:+.1%}")
    sys.exit(0 if highest <= BOUND * settled else 1)


if __name__ == "__main__":
    main()
