"""An adapter against all weights: held-out accuracy of the demo; and what a weight sync sends.

    python benchmarks/lora.py [--adapter 32:5e-4 8:1.5e-3:language,vision] [--control] [--runs 1]
    python benchmarks/lora.py --sync FOLDER

Curves: the demo's models and world, the same seeds with all weights and with adapters; `--control`:
and with whole weights of the layers that adapters are in. Captions of the evaluations are greedy,
and scored where the demo's limit of 64 tokens cuts them off, too: how many are stands beside the
accuracy. Runs that are finished are not run again; `--runs`: at most so many more in this call, and
the table is of those that are there.

Sync: a random model of 50 million parameters, made in FOLDER, on one rank. An adapter after a first
step (B of plus or minus the learning rate, as AdamW makes it) goes to an engine by itself, and
merged into whole weights; bytes, seconds, and how many weights the merge changes at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, machine
from launch import torchrun
from learning_curves import curve, figures
from tqdm import tqdm

from caprl_native.testing.demo_world.datasets import write_world

MODEL = {"hidden": 512, "layers": 12, "vision": 128, "vocab_size": 32_000}
REPEATS, RANK = 3, 16
CUT_OFF = "eval/completion/truncated_frac"


def arms(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is laid over the demo's config, by the name of the arm."""
    found: dict[str, dict[str, Any]] = {"all weights": {}}
    if args.control:
        plugin = str(Path(__file__).with_name("linear_layers.py"))
        found["linear layers of the language model"] = {"plugins": json.dumps([plugin])}
    return found | dict(map(adapter_arm, args.adapter))


def adapter_arm(spec: str) -> tuple[str, dict[str, Any]]:
    """RANK:LR or RANK:LR:TARGETS; the arm's name and settings."""
    rank, lr, *rest = spec.split(":")
    targets = rest[0].split(",") if rest else ["language"]
    settings = {"policy.lora.rank": rank, "policy.lora.targets": json.dumps(targets)}
    name = f"adapter of rank {rank} at {float(lr):g} in {' '.join(targets)}"
    return name, settings | {"policy.lr": lr}


def make_world(folder: Path) -> None:
    """train.jsonl and heldout.jsonl of the demo."""
    if not (folder / "heldout.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_world(folder, "train", 1500, 500, 0)
        write_world(folder, "heldout", 128, 64, 0)


def folder_of(args: argparse.Namespace, arm: str, seed: int) -> Path:
    return args.out / arm.replace(" ", "_") / str(seed)


def is_finished(args: argparse.Namespace, arm: str, seed: int) -> bool:
    points = curve(folder_of(args, arm, seed))
    return bool(points) and points[-1][0] == args.steps


def train(args: argparse.Namespace, arm: str, seed: int) -> None:
    """One run. Exits where it fails."""
    folder = folder_of(args, arm, seed)
    settings = arms(args)[arm] | {
        **{"run.dir": folder, "run.seed": seed, "run.steps": args.steps, "run.export": "false"},
        **{"data.files": json.dumps([str(args.out / "world/train.jsonl")])},
        **{"data.eval_files": json.dumps([str(args.out / "world/heldout.jsonl")])},
        **{"eval.every": args.every, "eval.samples": args.held_out, "log.progress": "false"},
        "data.batch_size": args.batch,
    }
    shutil.rmtree(folder, ignore_errors=True)  # what was cut off
    folder.mkdir(parents=True)
    config = str(ROOT / "train_configs" / "demo.toml")
    options = [f"--{key}={value}" for key, value in settings.items()]
    command = [*torchrun(args.ranks), "-m", "caprl_native.train", "--config", config, *options]
    with (folder.parent / f"{seed}.log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"error: {arm}, seed {seed}: the run failed, see {log.name}")


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per arm: the curves of its finished runs, and what they are at the end."""
    rows = []
    for arm in arms(args):
        done = [seed for seed in range(args.seeds) if is_finished(args, arm, seed)]
        folders = [folder_of(args, arm, seed) for seed in done]
        curves, cut = [curve(f) for f in folders], [curve(f, CUT_OFF) for f in folders]
        row: dict[str, Any] = {"arm": arm, "seeds": done}
        row["highest"] = [max(y for _, y in points) for points in curves]
        row |= {"final": [ys[-1][1] for ys in curves], "cut off": [ys[-1][1] for ys in cut]}
        rows.append(row | {"curves": curves, "curves of the cut off": cut})
    return rows


def table(rows: Sequence[dict[str, Any]], steps: int) -> str:
    """Medians over the seeds, with all of them in brackets."""
    shown = [f"| trained | highest accuracy | step {steps} | captions cut off then |"]
    shown.append("| --- | --- | --- | --- |")
    for row in rows:
        if row["final"]:
            cells = [figures(row[place], "{:.3f}") for place in ("highest", "final", "cut off")]
            shown.append(f"| {row['arm']} | {' | '.join(cells)} |")
    return "\n".join(shown)


# --- weight sync ------------------------------------------------------------------------------


def measure_sync(path: Path, lr: float = 1e-4) -> dict[str, Any]:
    """Bytes and median seconds of both ways, and the share of adapted weights that a merge in
    bfloat16 changes."""
    import torch

    from caprl_native.config.lora import LoraConfig
    from caprl_native.config.schema import PolicyConfig
    from caprl_native.distributed.world import init_distributed
    from caprl_native.policy.fsdp import load_policy, local_shard
    from caprl_native.policy.lora import merged
    from caprl_native.rollout.self_check import adapter_room
    from caprl_native.rollout.weight_sync import stream, sync
    from caprl_native.testing.tiny_models import write_tiny_vlm

    dims = init_distributed()
    if not (path / "config.json").exists():
        write_tiny_vlm(path, **MODEL)
    policy = load_policy(PolicyConfig(path=str(path), lora=LoraConfig(rank=RANK)), dims)
    assert policy.adapter is not None
    layers, dtype = policy.adapter.layers.values(), torch.bfloat16
    changed = total = 0
    with torch.no_grad():
        for layer in layers:
            b = local_shard(layer.lora_b)
            b.copy_((torch.rand(b.shape) > 0.5) * 2 * lr - lr)
            weight, a = local_shard(layer.weight), local_shard(layer.lora_a)
            changed += int((merged(weight, a, b, 2.0, dtype) != weight).sum())
            total += weight.numel()
    sent = sum(t.nbytes for _, t in stream(policy, dtype))
    engine = start(path, None)
    whole = timed(lambda: engine.load_weights(stream(policy, dtype, as_stored=True)))
    engine.close()
    engine = start(path, adapter_room(policy))
    alone = timed(lambda: sync(policy, engine))
    adapter = sync(policy, engine)
    engine.close()
    return {
        "parameters": sum(p.numel() for p in policy.parameters() if not p.requires_grad),
        "merged": {"bytes": sent, "seconds": whole},
        "adapter": {"bytes": adapter, "share": adapter / sent, "seconds": alone},
        "changed by a merge": changed / total,
    }


def start(path: Path, room: Any) -> Any:
    """An engine in bfloat16."""
    from caprl_native.config.models import EngineConfig
    from caprl_native.rollout.engine import Engine, EngineSettings

    config = EngineConfig(
        max_model_len=512, max_num_seqs=8, kv_cache_gib=0.1, gpu_memory_utilization=0.3
    )
    settings = EngineSettings(config, str(path), "bfloat16", media_per_prompt=1, adapter=room)
    return Engine(settings)


def timed(work: Callable[[], Any]) -> float:
    """Median seconds, after a first time that counts for nothing."""
    seconds = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    """Writes the JSON and prints the table, or the figures of a sync."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "lora_curves")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/lora.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=4, help="steps between evaluations")
    parser.add_argument("--batch", type=int, default=8, help="prompts of a step")
    parser.add_argument("--held-out", type=int, default=96, help="scenes evaluated; 0: all")
    parser.add_argument(
        "--adapter", nargs="+", default=["32:5e-4"], help="RANK:LR, or RANK:LR:TARGET,TARGET"
    )
    parser.add_argument("--control", action="store_true", help="one more arm, see above")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", type=int, default=-1, help="at most so many; -1: all")
    parser.add_argument("--sync", type=Path, help="a folder for the model of the other measurement")
    args = parser.parse_args()
    if args.sync:
        print(json.dumps(measure_sync(args.sync), indent=2))
        return
    args.out = args.out.resolve()
    make_world(args.out / "world")
    wanted = [(arm, seed) for seed in range(args.seeds) for arm in arms(args)]
    left = [run for run in wanted if not is_finished(args, *run)]
    for arm, seed in tqdm(left[: args.runs if args.runs >= 0 else None], desc="runs"):
        train(args, arm, seed)
    rows = compare(args)
    result = {"machine": machine(), "steps": args.steps, "batch": args.batch}
    result |= {"held_out": args.held_out}
    args.json.write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")
    print(table(rows, args.steps))


if __name__ == "__main__":
    main()
