"""The training phase: prompts shared by their responses against prompts repeated for each.

    python benchmarks/training.py shapes          each shape, both ways
    python benchmarks/training.py growth          the shared way, over n and over P

One process, float32 on a CPU and bfloat16 on CUDA, Qwen3-VL with random weights. Both sides are the
same trainer with the same budget of tokens for a micro-batch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile

import torch
import torch.distributed as dist
from common import (
    MODEL,
    PROMPTS,
    SHAPES,
    N,
    Shape,
    alternated,
    group_of,
    prompt_of,
    summary,
)
from tqdm import tqdm

from caprl_native.config import AlgorithmConfig, PolicyConfig
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.parallel import init_distributed, load_policy
from caprl_native.policy.update import Updater
from caprl_native.tiny import write_tiny_vlm
from caprl_native.types import Group


class Bench:
    """A policy and its updater on models of this script's size."""

    def __init__(self, folder: str) -> None:
        layout = init_distributed()
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        self.path = str(write_tiny_vlm(folder, **MODEL))
        self.config = PolicyConfig(path=self.path, dtype=dtype, activation_checkpointing=False)
        self.policy = load_policy(self.config, layout)
        self.vocabulary = self.policy.config.get_text_config().vocab_size
        self.updater = Updater(
            policy=self.policy,
            reference=None,
            optimizer=build_optimizer(self.policy, self.config),
            config=self.config,
            algorithm=AlgorithmConfig(),
            temperature=1.0,
            max_tokens=4096,
            total_steps=10_000,
            layout=layout,
        )

    def groups(self, shape: Shape, n: int, prompts: int) -> list[Group]:
        return [
            group_of(prompt_of(self.path, shape, i), shape.response, n, i, self.vocabulary)
            for i in range(prompts)
        ]

    def update(self, groups: list[Group], budget: int) -> None:
        self.updater.config = dataclasses.replace(self.config, micro_batch_tokens=budget)
        self.updater.update(groups, step=0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def repeated(groups: list[Group]) -> list[Group]:
    """Every response with a prompt of its own."""
    return [dataclasses.replace(g, rollouts=[r]) for g in groups for r in g.rollouts]


def shapes(bench: Bench, names: list[str]) -> dict:
    found = {}
    for name in tqdm(names, desc="training"):
        shape = SHAPES[name]
        groups = bench.groups(shape, N, PROMPTS)
        prompt, response = len(groups[0].prompt), shape.response
        budget = prompt + N * response
        single = repeated(groups)
        seconds = alternated(
            {
                "shared": lambda g=groups, b=budget: bench.update(g, b),
                "unshared": lambda g=single, b=budget: bench.update(g, b),
            },
            shape.repeats,
        )
        found[name] = {
            "prompt": prompt,
            "response": response,
            "shared_s": summary(seconds["shared"]),
            "unshared_s": summary(seconds["unshared"]),
            "ratio": summary(
                [u / s for s, u in zip(seconds["shared"], seconds["unshared"], strict=True)]
            ),
            "ideal_ratio": N * (prompt + response) / (prompt + N * response),
        }
    return found


def growth(bench: Bench) -> dict:
    """Seconds of a step of one prompt, over n at the video shape's P, and over P at its R and n."""
    video = SHAPES["video"]
    found: dict[str, dict] = {"n": {}, "prompt": {}}
    for n in tqdm((2, 4, 8, 16), desc="growth with n"):
        groups = bench.groups(video, n, 1)
        budget = len(groups[0].prompt) + n * video.response
        run = alternated({"s": lambda g=groups, b=budget: bench.update(g, b)}, video.repeats)
        found["n"][str(n)] = summary(run["s"])
    for frames in tqdm((4, 8, 16, 32, 64), desc="growth with the prompt"):
        groups = bench.groups(dataclasses.replace(video, frames=frames), N, 1)
        length = len(groups[0].prompt)
        budget = length + N * video.response
        run = alternated({"s": lambda g=groups, b=budget: bench.update(g, b)}, video.repeats)
        found["prompt"][str(length)] = summary(run["s"])
    return found


def main() -> None:
    what, *names = sys.argv[1:] or ["shapes"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        found = growth(bench) if what == "growth" else shapes(bench, names or list(SHAPES))
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
