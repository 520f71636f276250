"""Images first, then videos, or videos alone: held-out videos' accuracy at equal numbers of steps.

    python benchmarks/s2d.py --out outputs/s2d_curves [--seeds 3] [--steps 80]

In the demo's harder world, with its models. "image, then video" is caprl_native.s2d with half of
the steps in each stage; "video alone" is one run of as many steps. Both are evaluated on the same
held-out videos at the same steps. Runs that are finished are not run again, those that were cut off
go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, machine
from launch import torchrun
from learning_curves import METRIC, figures, lines
from tqdm import tqdm

from caprl_native.config.load import toml
from caprl_native.s2d import Stage
from caprl_native.testing.demo_world.datasets import write_world

DEMO = "train_configs/demo.toml"
BOTH, ALONE = "image, then video", "video alone"
KINDS = ("image", "video")


def make_world(folder: Path) -> None:
    """train_image.jsonl, train_video.jsonl and heldout.jsonl, which has videos alone."""
    if (folder / "heldout_video.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_world(folder, "train", 1000, 1000, 0, hard=True)
    write_world(folder, "heldout", 2, 96, 0, hard=True)
    for split in ("train", "heldout"):
        records = list(lines(folder / f"{split}.jsonl"))
        for kind in KINDS:
            text = "".join(json.dumps(r) + "\n" for r in records if kind in r)
            (folder / f"{split}_{kind}.jsonl").write_text(text)


def write_config(folder: Path, kind: str, steps: int, args: argparse.Namespace, seed: int) -> Path:
    """What is laid over the demo's config for a run on one kind of media into `folder`."""
    tables: dict[str, dict[str, Any]] = {
        "run": {"dir": str(folder), "seed": seed, "steps": steps, "save_every": args.every}
        | {"keep": 1, "export_every_save": False},
        "data": {
            "files": [str(args.out / "world" / f"train_{kind}.jsonl")],
            "eval_files": [str(args.out / "world" / "heldout_video.jsonl")],
            "batch_size": args.batch,
        },
        "policy": {"lr": args.lr},
        "rollout": {"n": 4},
        "eval": {"every": args.every},
        "log": {"progress": False},
    }
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
    file = folder.with_suffix(".toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def start(words: Sequence[str], log: Path, args: argparse.Namespace) -> None:
    """Runs a program on the ranks. Exits where it fails."""
    with log.open("a") as output:
        command = [*torchrun(args.ranks), "-m", *words]
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output)
    if done.returncode:
        sys.exit(f"error: {' '.join(words)} failed, see {log}")


def train_both(folder: Path, args: argparse.Namespace, seed: int) -> None:
    """The two stages; nothing where they are finished."""
    half = args.steps // 2
    files = {
        kind: [DEMO, str(write_config(folder / kind, kind, half, args, seed))] for kind in KINDS
    }
    config = folder / "s2d.toml"
    config.write_text("".join(f"[{kind}]\nfiles = {toml(files[kind])}\n" for kind in KINDS))
    start(["caprl_native.s2d", "--config", str(config)], folder / "log", args)


def train_alone(folder: Path, args: argparse.Namespace, seed: int) -> None:
    """Videos alone; nothing where it is finished."""
    file = write_config(folder / "video", "video", args.steps, args, seed)
    run = Stage(1, (DEMO, str(file)))
    if not run.is_finished:
        start(["caprl_native.train", *run.command()], folder / "log", args)


def curve(run: Path, offset: int = 0) -> list[tuple[int, float]]:
    """(step, held-out accuracy) of a run, whose steps begin after `offset`."""
    found = lines(run / "metrics.jsonl")
    return [(offset + m["step"], m[METRIC]) for m in found if METRIC in m]


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per arm: the curves of all seeds, and their accuracy at half of the steps and at the
    end."""
    half, rows = args.steps // 2, []
    for arm in (BOTH, ALONE):
        curves = []
        for seed in range(args.seeds):
            folder = folder_of(args.out, arm, seed)
            if arm == BOTH:
                points = curve(folder / "image") + curve(folder / "video", half)[1:]
            else:
                points = curve(folder / "video")
            curves.append(points)
        at = [dict(points) for points in curves]
        rows.append(
            {
                "arm": arm,
                "half": [points[half] for points in at],
                "final": [points[args.steps] for points in at],
                "curves": curves,
            }
        )
    return rows


def folder_of(out: Path, arm: str, seed: int) -> Path:
    return out / arm.replace(", ", "_").replace(" ", "_") / str(seed)


def table(rows: Sequence[dict[str, Any]], steps: int) -> str:
    """Medians over the seeds, with all of them in brackets."""
    shown = [
        f"| trained on | accuracy on videos, step {steps // 2} | step {steps} |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        cells = [figures(row[place], "{:.3f}") for place in ("half", "final")]
        shown.append(f"| {row['arm']} | {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Writes the JSON and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "s2d_curves")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/s2d.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80, help="of both stages; an even number")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--batch", type=int, default=4, help="prompts of a step")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    if args.steps < 2 or args.steps % 2:
        parser.error("--steps: expected an even number, 2 or more")
    if (args.steps // 2) % args.every:
        args.every = args.steps // 2  # so that all runs are evaluated where the stages meet
    args.out = args.out.resolve()
    make_world(args.out / "world")
    for seed in tqdm(range(args.seeds), desc="seeds"):
        for arm, train in ((BOTH, train_both), (ALONE, train_alone)):
            train(folder_of(args.out, arm, seed), args, seed)
    rows = compare(args)
    result = {"machine": machine(), "steps": args.steps, "lr": args.lr, "rows": rows}
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows, args.steps))


if __name__ == "__main__":
    main()
