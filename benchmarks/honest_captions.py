"""False statements and coverage of captions, against what a wrong answer costs in the reward.

    python benchmarks/honest_captions.py [--weights 0 0.5 1] [--seeds 0 1 2] [--steps 30]

The demo is run with each `reward.terms.accuracy.misled_weight` and seed. Its world's facts are
known, so that each clause of a held-out caption (greedy) is right, wrong or of nothing in the
scene. Told are, per caption, false clauses and the share of the scene's attributes that it states
rightly (coverage), beside the reader's shares of right, misled and open answers; and the false
clauses at equal coverage: where the curve of a run passes the least coverage that all runs of the
seed end with. Runs that the file of results has already are not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from common import ROOT, machine  # isort: skip  # makes tools/ importable
import demo

from caprl_native.testing.demo_world.scenes import Scene, mentions

ACCURACY = "eval/reward/accuracy"


def scenes_of(file: Path) -> dict[str, Scene]:
    """The scenes of a file of the world, by the sample's id."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {r["id"]: Scene("image" if "image" in r else "video", r["scene"]) for r in rows}


def judged(captions: Sequence[tuple[Scene, str]]) -> dict[str, float]:
    """Means over captions: clauses, false ones, and the share of attributes stated rightly."""
    clauses, false, covered = [], [], []
    for scene, text in captions:
        stated = [part for part in text.strip().rstrip(".").split(",") if part.strip()]
        found = [mentions(scene, clause) for clause in stated]
        clauses.append(len(stated))
        false.append(sum(not (each and all(each.values())) for each in found))
        right = {name for each in found for name, is_right in each.items() if is_right}
        covered.append(len(right) / len(scene.attributes))
    return {"clauses": mean(clauses), "false": mean(false), "coverage": mean(covered)}


def evaluated(out: Path) -> list[dict[str, float]]:
    """A row for each evaluation of a run."""
    scenes = scenes_of(out / "world" / "heldout.jsonl")
    metrics = {m["step"]: m for m in demo.read_lines(out / "metrics.jsonl") if demo.METRIC in m}
    rows = []
    for step, found in sorted(metrics.items()):
        records = demo.read_lines(out / "eval" / f"step_{step:06d}.jsonl")
        row = judged([(scenes[r["id"]], r["caption"]) for r in records])
        parts = {name: found[f"{ACCURACY}/{name}"] for name in ("right", "misled", "abstained")}
        rows.append({"step": step, **row, **parts})
    return rows


def run(weight: float, seed: int, steps: int, every: int, out: Path) -> list[dict[str, float]]:
    """The evaluations of one run of the demo."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = [
        f"reward.terms.accuracy.misled_weight={weight}",
        *(f"run.steps={steps}", f"eval.every={every}", "run.export=false"),
    ]
    args = demo.arguments(["--seed", str(seed), "--out", str(out), *settings])
    log = out / "log.txt"
    demo.make_world(args, log)
    demo.train(args, log)
    return evaluated(out)


def false_at(rows: Sequence[dict[str, float]], coverage: float) -> float:
    """False clauses of a run where its coverage first reaches this much, between evaluations."""
    for before, after in zip(rows, rows[1:], strict=False):
        low, high = before["coverage"], after["coverage"]
        if high >= coverage and high > low:
            share = max(0.0, (coverage - low) / (high - low))
            return before["false"] + share * (after["false"] - before["false"])
    return rows[-1]["false"]


def summarised(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each weight: means over the seeds, at the end and at equal coverage."""
    least = {
        seed: min(r["rows"][-1]["coverage"] for r in runs if r["seed"] == seed)
        for seed in {r["seed"] for r in runs}
    }
    rows = []
    for weight in sorted({r["weight"] for r in runs}):
        its = [r for r in runs if r["weight"] == weight]
        ends = [r["rows"][-1] for r in its]
        names = [name for name in ends[0] if name != "step"]
        row = {"weight": weight} | {name: mean(e[name] for e in ends) for name in names}
        row["false_by_seed"] = [e["false"] for e in ends]
        row["false_at_equal_coverage"] = mean(false_at(r["rows"], least[r["seed"]]) for r in its)
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As it stands in README.md and docs/rewards.md."""
    lines = [
        "| weight | clauses | false | at equal coverage | coverage | right | misled | open |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        seeds = ", ".join(f"{value:.2f}" for value in r["false_by_seed"])
        lines.append(
            f"| {r['weight']:g} | {r['clauses']:.2f} | {r['false']:.2f} ({seeds}) "
            f"| {r['false_at_equal_coverage']:.2f} | {r['coverage']:.3f} | {r['right']:.3f} "
            f"| {r['misled']:.3f} | {r['abstained']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Writes `results/honest_captions.json` after each run; prints the table of the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=3, help="steps between evaluations")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "honest_captions")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "honest_captions.json"
    )
    args = parser.parse_args()
    settings = {"steps": args.steps, "every": args.every}
    runs = done(args.out, settings)
    for seed in args.seeds:
        for weight in args.weights:
            if any((r["weight"], r["seed"]) == (weight, seed) for r in runs):
                continue
            out = args.work / f"weight_{weight:g}_seed_{seed}"
            rows = run(weight, seed, args.steps, args.every, out.resolve())
            runs.append({"weight": weight, "seed": seed, "rows": rows})
            found = {"machine": machine(), **settings, "runs": runs}
            args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(summarised([r for r in runs if r["weight"] in args.weights])))


def done(file: Path, settings: Mapping[str, int]) -> list[dict[str, Any]]:
    """The runs of a file of results; none where they had other settings."""
    found = json.loads(file.read_text()) if file.exists() else {}
    return found["runs"] if settings.items() <= found.items() else []


if __name__ == "__main__":
    main()
