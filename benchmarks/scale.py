"""Steps of a model of Qwen3-VL-2B's shape: time by phase, tokens/s, FLOP/s, peak memory.

    python benchmarks/scale.py image|long            on a GPU, bfloat16, activation checkpointing
    python benchmarks/scale.py image --small         another model, to try the script on a CPU

4 prompts, 8 responses each; `long` has about 8,000 prompt and 1,000 response tokens. FLOP/s are
those of the update by its groups' arithmetic (recomputation not counted), beside what a
large matrix product reaches on the same device.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import Any

import torch
from common import LONG, PROMPTS, SHAPES, N, Shape, matmul_flops, summary
from smoke.models import write_model
from step_side import Ours
from tqdm import tqdm

from caprl_native.testing.tiny_models import write_tiny_vlm

REPEATS = 3


def measure(shape: Shape, folder: str) -> dict[str, Any]:
    side = Ours(folder, shape, checkpointing=True)
    trainer = side.trainer
    phases, peaks = [], []
    for i in tqdm(range(1 + REPEATS), desc="scale"):
        side.step()
        if i:
            phases.append(dict(side.phases))
            peaks.append(side.peak)
    parameters = sum(p.numel() for p in trainer.policy.parameters())
    side.close()
    train = summary([p["train"] for p in phases])
    rollout = summary([p["rollout"] for p in phases])
    tokens = PROMPTS * N * shape.response
    size = 8192 if torch.cuda.is_available() else 2048
    return {
        "prompt": side.prompt_tokens,
        "response": shape.response,
        "parameters": parameters,
        "phases": {name: summary([p[name] for p in phases]) for name in phases[0]},
        "rollout_tokens_per_s": tokens / rollout["median"],
        "train_tokens_per_s": (PROMPTS * side.prompt_tokens + tokens) / train["median"],
        "train_flops_per_s": trainer.learner.work.flops / train["median"],
        "matmul_flops_per_s": matmul_flops(trainer.dims.device, size),
        "train_peak_bytes": max(peaks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=("image", "long"))
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        if args.small:
            write_tiny_vlm(folder)
        else:
            write_model(folder)
        shape = LONG if args.shape == "long" else SHAPES["image"]
        print(json.dumps(measure(shape, folder)), file=answers, flush=True)


if __name__ == "__main__":
    main()
