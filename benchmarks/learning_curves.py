"""How fast a captioner learns by the ways to ask: held-out accuracy over steps and reader tokens.

    python benchmarks/learning_curves.py --out outputs/curves [--seeds 3] [--steps 80]

The demo's models in a harder world: 20 questions a scene, of which some facts have six and some
have one, 4 captions of a prompt, and a learning rate at which accuracy still rises at step 60. Each
run is a training run of its own in a folder under `--out`; those that are there are not run again.

A run has arrived where its held-out accuracy has gone 90% of the way from the first evaluation to
the mean of the last three of all runs of its seed; between two evaluations the way is a straight
line. Tokens of the reader are counted in the rollout log: whole prompts, though its prefix cache
holds what the questions of a caption share, and what it writes (one token where it looks only).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, machine
from launch import torchrun
from tqdm import tqdm
from transformers import AutoTokenizer

from caprl_native.rewards.prompts import ANSWER_PREFIX, reader_messages
from caprl_native.testing.demo_world.datasets import write_world
from caprl_native.text.control_tokens import tokenized_chats

Curve = list[tuple[float, float]]  # (steps or tokens, held-out accuracy)

ARMS = {
    "own + sampled": ("questions=own", "draws=8", "answers=sampled"),
    "each + sampled": ("questions=each", "answers=sampled"),
    "each + expected": ("questions=each", "answers=expected"),
}
SETTINGS = {
    **{"rollout.n": 4, "run.save_every": 0, "run.export": "false", "log.progress": "false"},
}
READER = ROOT / "demo_models" / "reader"
METRIC = "eval/reward/accuracy/mean"
ARRIVED, LAST = 0.9, 3


def train(arm: str, folder: Path, world: Path, args: argparse.Namespace, seed: int) -> None:
    """One run; nothing where it has been done."""
    if curve(folder)[-1:] and curve(folder)[-1][0] == args.steps:
        return
    settings = SETTINGS | {
        **{"run.dir": folder, "run.seed": seed, "run.steps": args.steps, "policy.lr": args.lr},
        **{"data.files": [str(world / "train.jsonl")], "eval.samples": args.held_out},
        **{"data.eval_files": [str(world / "heldout.jsonl")], "eval.every": args.every},
        "data.batch_size": args.batch,
    }
    options = [f"--{key}={value}" for key, value in settings.items()]
    options += [f"--reward.terms.accuracy.{setting}" for setting in ARMS[arm]]
    command = [*torchrun(args.ranks), "-m", "caprl_native.train"]
    shutil.rmtree(folder, ignore_errors=True)  # what was cut off
    folder.mkdir(parents=True)
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        config = str(ROOT / "train_configs" / "demo.toml")
        done = subprocess.run(
            [*command, "--config", config, *options], cwd=ROOT, stdout=log, stderr=log
        )
    if done.returncode:
        sys.exit(f"error: {arm}, seed {seed}: the run failed, see {log.name}")


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; none where it is not there."""
    if file.exists():
        with file.open() as text:
            yield from map(json.loads, text)


def curve(folder: Path, metric: str = METRIC) -> Curve:
    """Held-out accuracy, or another metric, over steps."""
    return [(m["step"], m[metric]) for m in lines(folder / "metrics.jsonl") if metric in m]


def tokens_of_steps(folder: Path, tokenizer: Any) -> dict[int, int]:
    """What the reader has read and written after each step, evaluations left out."""
    after, count = {0: 0}, 0
    for file in sorted((folder / "rollouts").glob("step_*.jsonl")):
        count += sum(tokens_of(record, tokenizer) for record in lines(file))
        after[int(file.stem.removeprefix("step_"))] = count
    return after


def tokens_of(record: dict[str, Any], tokenizer: Any) -> int:
    """Of the questions on one caption, a record of the rollout log."""
    modality = "video" if record["media"][0].endswith(".mp4") else "image"
    asked = record.get("reader") or []
    chats = [
        reader_messages(modality, record["caption"], one["question"], one["choices"])
        for one in asked
    ]
    read = sum(map(len, tokenized_chats(tokenizer, chats, ANSWER_PREFIX)))
    texts = [one.get("answer") or "" for one in asked]
    written = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) + 1 for t in texts)
    return read + written


def arrival(points: Curve, target: float) -> float | None:
    """Where the curve first is at the target; None: nowhere."""
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if y1 >= target:
            return x0 + (x1 - x0) * max(0.0, target - y0) / max(y1 - y0, 1e-9)
    return None


def final(points: Curve) -> float:
    return statistics.mean(y for _, y in points[-LAST:])


def compare(out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row per arm."""
    tokenizer = AutoTokenizer.from_pretrained(READER)
    rows = [{"arm": arm, "final": [], "steps": [], "tokens": []} for arm in ARMS]
    for seed in seeds:
        curves = {arm: curve(folder_of(out, arm, seed)) for arm in ARMS}
        ends = statistics.mean(final(points) for points in curves.values())
        for row in rows:
            points = curves[row["arm"]]
            target = points[0][1] + ARRIVED * (ends - points[0][1])
            tokens = tokens_of_steps(folder_of(out, row["arm"], seed), tokenizer)
            row["final"].append(final(points))
            row["steps"].append(arrival(points, target))
            row["tokens"].append(arrival([(tokens[int(x)], y) for x, y in points], target))
            row.setdefault("curves", []).append(points)
    return rows


def folder_of(out: Path, arm: str, seed: int) -> Path:
    return out / arm.replace(" ", "") / str(seed)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians over the seeds, with all of them in brackets."""
    shown = [
        "| asked | final accuracy | steps to 90% | millions of reader tokens to 90% |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [figures(row["final"], "{:.3f}"), figures(row["steps"], "{:.0f}")]
        cells.append(figures([t and t / 1e6 for t in row["tokens"]], "{:.2f}"))
        shown.append(f"| {row['arm']} | {' | '.join(cells)} |")
    return "\n".join(shown)


def figures(values: Sequence[float | None], form: str) -> str:
    each = ", ".join("never" if v is None else form.format(v) for v in values)
    if any(v is None for v in values):
        return each
    return f"{form.format(statistics.median(v for v in values if v is not None))} ({each})"


def main() -> None:
    """Writes `results/learning_curves.json` and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "curves")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120, help="a multiple of --every")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--batch", type=int, default=4, help="prompts of a step")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=96)
    parser.add_argument("--only", default="", help="run the arms with this in their names alone")
    args = parser.parse_args()
    args.out = args.out.resolve()
    world = args.out / "world"
    if not (world / "heldout.jsonl").exists():
        world.mkdir(parents=True, exist_ok=True)
        write_world(world, "train", 1500, 500, 0, hard=True)
        write_world(world, "heldout", 64, 32, 0, hard=True)
    wanted = [(arm, seed) for seed in range(args.seeds) for arm in ARMS if args.only in arm]
    for arm, seed in tqdm(wanted, desc="runs"):
        train(arm, folder_of(args.out, arm, seed), world, args, seed)
    if args.only:
        return
    rows = compare(args.out, range(args.seeds))
    result = {"machine": machine(), "steps": args.steps, "lr": args.lr, "rows": rows}
    file = ROOT / "benchmarks" / "results" / "learning_curves.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
