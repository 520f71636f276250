"""Supervised updates under many cuts; rank 0 writes gradients and weights for comparison.

Arguments: the model directory and the folder to write `<ranks>.pt` in. By case: {"metrics": ...,
"gradients": ..., "before": ..., "after": ...}.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import ParallelDims, init_distributed
from caprl_native.policy.examples import scored_row
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow
from caprl_native.policy.prompt import text_prompt
from caprl_native.policy.supervised import SupervisedLearner
from caprl_native.testing.samples import prompt, responses
from tests.ranks import report

KINDS = ["image", "video", "text", "images"]


def main(path: str, folder: str) -> None:
    dims = init_distributed()
    base = {"path": path, "dtype": "float32", "lr": 1e-2, "max_grad_norm": 0.0}
    results: dict[str, dict] = {}

    def case(name: str, share: str = "even", **changes: object) -> None:
        results[name] = run(PolicyConfig(**{**base, **changes}), dims, share)

    case("whole")
    case("halves", micro_batch_tokens=120)
    case("single", micro_batch_tokens=1, logprob_chunk=3)
    case("no checkpointing", activation_checkpointing=False)
    case("first rank has all", "first")
    case("second rank has text", "text apart")
    case("nobody has any", "none")
    if "vision" in load_policy(PolicyConfig(**base), dims).family.parts:
        case("frozen", freeze=["vision", "projector"])
    if dims.is_main:
        torch.save(results, Path(folder, f"{dims.world}.pt"))
    report({name: result["metrics"] for name, result in results.items()})
    dist.destroy_process_group()


def run(config: PolicyConfig, dims: ParallelDims, share: str) -> dict:
    """One update from the same weights on the same four rows."""
    policy = load_policy(config, dims)
    optimizer = build_optimizer(policy, config)
    gradients: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        for name, p in policy.hf.named_parameters():
            if p.requires_grad:
                gradients[name] = full_tensor(p.grad).clone()

    optimizer.register_step_pre_hook(look)
    before = weights(policy)
    learner = SupervisedLearner(policy, optimizer, config, 10, dims)
    metrics = learner.update(rows_of(policy, config.path, dims, share), step=1)
    return {
        "metrics": metrics, "gradients": gradients, "before": before, "after": weights(policy),
    }  # fmt: skip


def all_rows(policy, path: str) -> list[PackedRow]:
    """Four rows, all of whose text is learnt; of the text-only one a part is the assistant's."""
    made = []
    for i, kind in enumerate(KINDS):
        if policy.family.sees_media:
            given = prompt(path, kind, i)
        else:
            given = text_prompt(responses(policy.config, [], 1, 10 + i, longest=40)[0])
        (response,) = responses(policy.config, policy.banned, 1, i)
        turns = [t % 3 == 0 for t in range(len(given))] if kind == "text" else []
        made.append(scored_row(given, response, turns, "all"))
    return made


def rows_of(policy, path: str, dims: ParallelDims, share: str) -> list[PackedRow]:
    """This rank's part of them; the sharing has no influence on one rank."""
    rows = all_rows(policy, path) if share != "none" else []
    if dims.world == 1:
        return rows
    if share == "first":
        return rows if dims.is_main else []
    if share == "text apart":
        text = [k == "text" for k in KINDS[: len(rows)]]
        return [row for row, t in zip(rows, text, strict=True) if t != dims.is_main]
    return rows[dims.rank :: dims.world]


def weights(policy) -> dict[str, torch.Tensor]:
    return {n: full_tensor(p.detach()).clone() for n, p in policy.hf.named_parameters()}


if __name__ == "__main__":
    main(*sys.argv[1:])
