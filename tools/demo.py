"""The demo: a tiny captioner learns by reinforcement to write captions that answer more questions.

Makes a world of pictures and clips, trains on it with two ranks, and shows held-out captions
before and after. All is real but small: FSDP2, vLLM for policy and reader, PNG and MP4 files.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli
from launch import torchrun
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "demo_models"
EXAMPLES = 3
METRIC = "eval/reward/accuracy/mean"
POLL_S = 0.2


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the run")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=2000, help="for training; 1 in 4 is a video")
    parser.add_argument("--held-out", type=int, default=192, help="further ones; 1 in 3 is a video")
    parser.add_argument(
        "--shuffle-rewards",
        action="store_true",
        help="control: rewards go to shuffled captions, so nothing should be learnt",
    )
    parser.add_argument("overrides", nargs="*", help="further settings: policy.lr=1e-4 ...")
    return parser.parse_args(argv)


def run(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a part of the demo. All that it and its libraries print goes to the end of `log`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def finish(process: subprocess.Popen[bytes], doing: str, log: Path) -> None:
    """Waits for the end. A failure ends the demo with one sentence, the process's own if any."""
    if code := process.wait():
        lines = log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        reason = said[0].removeprefix("error: ") if said else f"exit code {code}"
        sys.exit(f"error: {doing} failed: {reason} (log: {log})")


def make_world(args: argparse.Namespace, log: Path) -> None:
    """Rewrites the demo's files; takes seconds."""
    videos, held_out_videos = args.scenes // 4, args.held_out // 3
    command = [
        *(sys.executable, str(ROOT / "tools" / "make_demo_world.py")),
        *("--out", str(args.out / "world"), "--seed", str(args.seed)),
        *("--images", str(args.scenes - videos), "--videos", str(videos)),
        *("--heldout-images", str(args.held_out - held_out_videos)),
        *("--heldout-videos", str(held_out_videos)),
    ]
    finish(run(command, log), "making the pictures and clips", log)


def train(args: argparse.Namespace, log: Path) -> None:
    """Runs the trainer, and shows how far it is."""
    overrides = [f"--{text}" for text in args.overrides]
    command = [
        *torchrun(args.ranks),
        *("-m", "caprl_native.train", "--config", str(ROOT / "train_configs" / "demo.toml")),
        f"--run.dir={args.out}",
        f"--run.seed={args.seed}",
        f"--data.files=['{args.out}/world/train.jsonl']",
        f"--data.eval_files=['{args.out}/world/heldout.jsonl']",
        *(["--run.shuffle_rewards=true"] if args.shuffle_rewards else []),
        *overrides,
    ]
    process = run(command, log)
    try:
        with progress(args.out) as show:
            while process.poll() is None:
                show()
                time.sleep(POLL_S)
            show()
    except KeyboardInterrupt:  # the ranks got it too: they finish their step and save
        print("\ninterrupted: the step is being finished and saved", file=sys.stderr)
        process.wait()
        sys.exit(130)
    finish(process, "training", log)


@contextmanager
def progress(out: Path) -> Iterator[Callable[[], None]]:
    """One line, from the run's own metrics; without a terminal, one for each evaluation."""
    terminal = sys.stderr.isatty()
    form = "{desc} {n}/{total} |{bar}| {elapsed}, {remaining} left, {rate_fmt}{postfix}"
    with tqdm(total=0, desc="starting", unit="step", bar_format=form, disable=not terminal) as bar:
        seen = 0

        def show() -> None:
            nonlocal seen
            lines = read_lines(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []
            if lines and not bar.total:
                bar.reset(total=tomli.loads((out / "config.toml").read_text())["run"]["steps"])
                bar.set_description_str("training", refresh=False)
            for line in lines[seen:]:
                if METRIC in line and not terminal:
                    print(
                        f"step {line['step']}: held-out accuracy reward {line[METRIC]:.3f}",
                        flush=True,
                    )
                elif "reward/accuracy/mean" in line:
                    bar.set_postfix_str(f"reward {line['reward/accuracy/mean']:.3f}", refresh=False)
                    bar.update(line["step"] - bar.n)
            seen = len(lines)
            bar.refresh()

        yield show


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; a last line that is still being written is left for later."""
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def draw_curve(metrics: list[dict[str, Any]], file: Path) -> None:
    """Training reward and held-out accuracy over the steps, as a PNG."""
    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # building its cache
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [(m["step"], m["reward/accuracy/mean"]) for m in metrics if "reward/accuracy/mean" in m]
    held_out = [(m["step"], m[METRIC]) for m in metrics if METRIC in m]
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=120)
    axes.plot(*zip(*train, strict=True), color="#9db8d9", label="training, sampled captions")
    axes.plot(
        *zip(*held_out, strict=True), color="#1f4e8c", marker="o", label="held out, greedy captions"
    )
    axes.set(xlabel="step", ylabel="accuracy reward", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def shown(path: Path) -> str:
    """The path as one would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def show(out: Path, summary: dict[str, Any], last: int) -> None:
    """The table, and the same held-out media captioned before and after."""
    before = {r["id"]: r for r in read_lines(out / "eval" / "step_000000.jsonl")}
    after = {r["id"]: r for r in read_lines(out / "eval" / f"step_{last:06d}.jsonl")}
    print(f"\n{'held-out scenes':<26}{'before':>8}{'after':>8}")
    row = "{:<26}{:>8.3f}{:>8.3f}"
    print(row.format("accuracy reward", summary["accuracy_before"], summary["accuracy_after"]))
    lengths = [sum(r["tokens"] for r in side.values()) / len(side) for side in (before, after)]
    print(row.format("tokens per caption", *lengths))
    videos = [i for i in before if before[i]["media"][0].endswith(".mp4")]
    images = [i for i in before if i not in videos]
    for name in [*images[: EXAMPLES - 1], *videos[:1]]:
        print(f"\n{shown(Path(before[name]['media'][0]))}")
        for label, side in (("before", before), ("after", after)):
            record = side[name]
            accuracy = record["rewards"].get("accuracy", float("nan"))
            print(f"  {label:<7}{accuracy:5.2f}  {record['caption'].strip()}")


def main() -> None:
    """Runs the demo and writes `summary.json` and `curve.png` beside `metrics.jsonl`."""
    args = arguments()
    missing = [m for m in ("policy", "reader") if not (MODELS / m / "config.json").exists()]
    if missing:
        names = " and no ".join(missing)
        sys.exit(f"error: {MODELS} has no {names}; `make demo-models` makes both")
    began = time.perf_counter()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True)
    log = args.out / "log.txt"
    print(
        f"Drawing {args.scenes} pictures and clips, then training a captioner of 2 million "
        f"parameters on {args.ranks} ranks (log: {shown(log)})",
        flush=True,
    )
    make_world(args, log)
    train(args, log)
    metrics = read_lines(args.out / "metrics.jsonl")
    held_out = [m for m in metrics if METRIC in m]
    last = held_out[-1]["step"]
    summary = {
        "accuracy_before": held_out[0][METRIC],
        "accuracy_after": held_out[-1][METRIC],
        "seconds": round(time.perf_counter() - began, 1),
        "steps": last,
        "seed": args.seed,
        "shuffled_rewards": args.shuffle_rewards,
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw_curve(metrics, args.out / "curve.png")
    show(args.out, summary, last)
    print(
        f"\n{summary['steps']} steps in {summary['seconds']:.0f} s; files under {shown(args.out)}"
    )


if __name__ == "__main__":
    main()
