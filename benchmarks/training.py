"""The training phase: prompts shared by their responses against prompts repeated for each.

    python benchmarks/training.py shape SHAPE          both ways
    python benchmarks/training.py growth n|prompt      the shared way
    python benchmarks/training.py memory               both ways, one group of long responses

One process, float32 on a CPU and bfloat16 on CUDA, Qwen3-VL with random weights. Both sides are the
same trainer with the same budget of tokens for a micro-batch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from common import (
    MEMORY,
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

from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.balance import GroupShape
from caprl_native.policy.flops import Flops
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.optim import build_optimizer
from caprl_native.testing.tiny_models import write_tiny_vlm
from caprl_native.types import Group


class Bench:
    """A policy and its learner on the model of a directory."""

    def __init__(self, path: str, checkpointing: bool = False) -> None:
        dims = init_distributed()
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        self.path = path
        self.config = PolicyConfig(path=path, dtype=dtype, activation_checkpointing=checkpointing)
        self.policy = load_policy(self.config, dims)
        self.vocabulary = self.policy.config.get_text_config().vocab_size
        self.learner = Learner(
            policy=self.policy,
            reference=None,
            optimizer=build_optimizer(self.policy, self.config),
            config=self.config,
            algorithm=AlgorithmConfig(),
            temperature=1.0,
            max_tokens=4096,
            total_steps=10_000,
            dims=dims,
        )

    def groups(self, shape: Shape, n: int, prompts: int) -> list[Group]:
        return [
            group_of(prompt_of(self.path, shape, i), shape.response, n, i, self.vocabulary)
            for i in range(prompts)
        ]

    def update(self, groups: list[Group], budget: int) -> dict[str, float]:
        """The metrics of an update with so many tokens in a micro-batch."""
        self.learner.config = self.config.replace(micro_batch_tokens=budget)
        metrics = self.learner.update(groups, step=0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return metrics


def repeated(groups: list[Group]) -> list[Group]:
    """Every response with a prompt of its own."""
    return [dataclasses.replace(g, rollouts=[r]) for g in groups for r in g.rollouts]


def compare(bench: Bench, shape: Shape, prompts: int = PROMPTS) -> dict[str, Any]:
    groups = bench.groups(shape, N, prompts)
    prompt, response = len(groups[0].prompt), shape.response
    budget = shape.at_once * (prompt + N * response)
    single = repeated(groups)
    seconds = alternated(
        {
            "shared": lambda: bench.update(groups, budget),
            "unshared": lambda: bench.update(single, budget),
        },
        shape.repeats,
    )
    shared, unshared = seconds["shared"], seconds["unshared"]
    return {
        "prompt": prompt,
        "response": response,
        "shared_s": summary(shared),
        "unshared_s": summary(unshared),
        "ratio": summary([u / s for s, u in zip(shared, unshared, strict=True)]),
        "flops_ratio": flops(bench, single) / flops(bench, groups),
    }


def flops(bench: Bench, groups: list[Group]) -> float:
    """Floating-point operations of an update on these groups."""
    per = Flops.of(bench.policy)
    return sum(per.update(GroupShape.of(group, 0)) for group in groups)


def growth(bench: Bench, over: str) -> dict[str, Any]:
    """A step of one prompt, its seconds and arithmetic: over n at the long video's P, or over P."""
    sizes = {"n": (2, 4, 8, 16), "prompt": (4, 8, 16, 32, 64)}[over]  # a prompt's: frames
    found = {}
    for size in tqdm(sizes, desc=f"growth over {over}"):
        n, frames = (size, 64) if over == "n" else (N, size)
        shape = dataclasses.replace(SHAPES["video"], frames=frames)
        groups = bench.groups(shape, n, 1)
        length = len(groups[0].prompt)
        budget = length + n * shape.response
        run = alternated({"s": lambda g=groups, b=budget: bench.update(g, b)}, shape.repeats)
        taken = summary(run["s"]) | {"flops": flops(bench, groups)}
        found[str(n if over == "n" else length)] = taken
    return found


def main() -> None:
    what, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(str(write_tiny_vlm(folder, **MODEL)))
        if what == "growth":
            found = growth(bench, *names)
        elif what == "memory":
            found = compare(bench, MEMORY, prompts=1)
        else:
            found = compare(bench, *(SHAPES[name] for name in names))
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
