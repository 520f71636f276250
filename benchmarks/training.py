"""The training phase: prompts shared by their responses against prompts repeated for each.

    python benchmarks/training.py shape SHAPE          both ways
    python benchmarks/training.py growth n|prompt      the shared way
    python benchmarks/training.py memory               one group of long responses, by the budget
    python benchmarks/training.py lengths DIRECTORY    only arithmetic: TaskMem's lengths, its model

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
from caprl_native.policy.families import family_of
from caprl_native.policy.flops import Flops
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model import Policy, load_hf
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


def compare(bench: Bench, shape: Shape) -> dict[str, Any]:
    groups = bench.groups(shape, N, PROMPTS)
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


def over_budgets(bench: Bench, shape: Shape) -> dict[str, Any]:
    """One group whose micro-batches may hold so many of its N responses, the prompt with each."""
    groups = bench.groups(shape, N, 1)
    prompt, counts = len(groups[0].prompt), (N, N // 2, 1)
    seconds = alternated(
        {
            str(n): lambda n=n: bench.update(groups, prompt + n * shape.response)  # type: ignore[misc]
            for n in counts
        },
        shape.repeats,
    )
    whole = seconds[str(N)]
    return {"prompt": prompt, "response": shape.response} | {
        f"{n} at once": summary(seconds[str(n)])
        | {
            "ratio": summary([s / w for s, w in zip(seconds[str(n)], whole, strict=True)]),
            "flops_ratio": flops(bench, in_parts(groups, n)) / flops(bench, groups),
        }
        for n in counts
    }


def in_parts(groups: list[Group], n: int) -> list[Group]:
    """Each prompt once for every n of its responses."""
    return [
        dataclasses.replace(g, rollouts=g.rollouts[i : i + n])
        for g in groups
        for i in range(0, len(g.rollouts), n)
    ]


def lengths(directory: str) -> dict[str, Any]:
    """FLOPs of the language model of a directory's config, against prompts computed once: with a
    prompt for each of 8 responses, and as TaskMem's budget of 32,768 tokens cuts a group."""
    per = Flops.of(Policy(load_hf(directory, empty=True), family_of(directory)))
    prompt, budget = 24_576, 32_768
    found = {}
    for response in (1_024, 2_048, 4_096, 8_192):
        at_once = min(N, (budget - prompt) // response)
        whole, part, single = (
            per.update(GroupShape(prompt, (response,) * n, 0, 0, False, 0)) for n in (N, at_once, 1)
        )
        found[f"{prompt} + {N} x {response}"] = {
            "repeated": N * single / whole,
            "cut": N // at_once * part / whole,
        }
    return found


def main() -> None:
    what, *names = sys.argv[1:]
    if what == "lengths":
        print(json.dumps(lengths(*names)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(str(write_tiny_vlm(folder, **MODEL)))
        if what == "growth":
            found = growth(bench, *names)
        elif what == "memory":
            found = over_budgets(bench, MEMORY)
        else:
            found = compare(bench, *(SHAPES[name] for name in names))
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
