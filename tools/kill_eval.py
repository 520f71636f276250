"""Kills an evaluation at random moments, goes on each time, and compares with an unbroken one.

    python tools/kill_eval.py --kills 10 --seed 0 -- --config prism_demo.toml

The moments are spread at random over all replies of the run; every fifth is while it starts.
Afterwards items.jsonl must be the unbroken run's, byte for byte; it exits with 1 if it is not.
What follows `--` is eval_prism.py's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.02


def start(out: Path, given: list[str]) -> subprocess.Popen[bytes]:
    """Starts the evaluation into `out`; what it prints goes to `<out>.log`."""
    command = [sys.executable, str(ROOT / "tools" / "eval_prism.py"), *given, f"--run.dir={out}"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)


def replies(out: Path) -> int:
    """Lines that the run has written so far."""
    files = [out / f"{name}.jsonl" for name in ("captions", "answers", "judgements")]
    return sum(f.read_bytes().count(b"\n") for f in files if f.exists())


def killed(out: Path, given: list[str], at: int, delay: float) -> bool:
    """Runs until `at` replies are there and `delay` seconds more, then kills all its processes.

    False: it had come to its end before.
    """
    process = start(out, given)
    while process.poll() is None and replies(out) < at:
        time.sleep(POLL_S)
    time.sleep(delay)
    over = process.poll() is not None
    if not over:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not over


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "kill_eval")
    parser.add_argument("given", nargs="*")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    unbroken, broken = args.out / "unbroken", args.out / "broken"
    began = time.monotonic()
    code = start(unbroken, args.given).wait()
    total = replies(unbroken)
    print(f"unbroken: exit {code}, {total} replies, {time.monotonic() - began:.0f} s", flush=True)
    rng = random.Random(args.seed)
    kills = 0
    for number in range(args.kills):
        # As many replies more as leave enough for the kills that follow.
        there = replies(broken)
        share = 2 * (total - there) // (args.kills - number + 1)
        starting = number % 5 == 4
        at = there + (0 if starting else rng.randint(1, max(1, share)))
        delay = rng.uniform(0, 20 if starting else 0.05)
        done = killed(broken, args.given, at, delay)
        kills += done
        what = "killed" if done else "had ended"
        print(f"at {at} replies and {delay:.2f} s: {what}, {replies(broken)} written", flush=True)
    again = start(broken, args.given).wait()
    one, two = ((folder / "items.jsonl").read_bytes() for folder in (unbroken, broken))
    print(f"resumed: exit {again}, {replies(broken)} replies; items.jsonl "
          f"{'equal' if one == two else 'DIFFER'}, {len(two.splitlines())} items")  # fmt: skip
    raise SystemExit(0 if one == two and code == again == 0 and kills else 1)


if __name__ == "__main__":
    main()
