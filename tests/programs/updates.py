"""Policy updates under many settings; rank 0 writes gradients and weights for comparison.

Arguments: the model directory, the folder to write `<ranks>.pt` in, and "all", "some" or "more"
cases.
By case: {"metrics": ..., "gradients": ..., "before": ..., "after": ...}.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.optim import build_optimizer
from caprl_native.testing.samples import group, prompt, responses
from tests.ranks import report

KINDS = ["image", "video", "text", "images"]
KEPT = ["whole", "second rank has text", "frozen vision, single"]  # also without checkpoints
SOME = ["whole", "single", "second rank has text", "frozen vision", "frozen vision, single"]
MORE = [*SOME, "clipped", "offloaded", "replicas, single", "reduced once"]


def main(path: str, folder: str, which: str) -> None:
    dims = init_distributed()
    base = PolicyConfig(
        path=path, dtype="float32", lr=1e-2, micro_batch_tokens=10_000, max_grad_norm=0.0
    )
    algorithm = AlgorithmConfig()
    results: dict[str, dict] = {}

    def case(name: str, config: PolicyConfig = base, share: str = "even", **changes) -> None:
        if name not in {"some": SOME, "more": MORE}.get(which, [name]):
            return
        settings = algorithm.replace(**changes)
        results[name] = run(config, settings, dims, share)
        if name in KEPT:
            whole = config.replace(activation_checkpointing=False)
            results[f"{name}, all kept"] = run(whole, settings, dims, share)

    case("whole")
    case("halves", base.replace(micro_batch_tokens=120))
    case("single", base.replace(micro_batch_tokens=1))
    case("chunks", base.replace(logprob_chunk=3))
    case("first rank has all", share="first")
    case("second rank has text", share="text apart")
    case("sequence mean", aggregation="seq-mean-token-mean")
    case("sequence mean, single", base.replace(micro_batch_tokens=1),
         aggregation="seq-mean-token-mean")  # fmt: skip
    case("kl", kl={"type": "k3", "weight": 0.1}, updates=2)
    case("clipped", base.replace(max_grad_norm=0.01))
    case("offloaded", base.replace(optimizer_offload=True))
    for part in ("vision", "projector", "language"):
        case(f"frozen {part}", base.replace(freeze=[part]))
    blind = base.replace(freeze=["vision"], micro_batch_tokens=1)
    case("frozen vision, single", blind)
    case("frozen vision, kl", blind, kl={"type": "k3", "weight": 0.1}, updates=2)
    case("frozen vision, text apart", blind, share="text apart")
    if dims.world == 2:
        case("replicas", base.replace(replicas=2))
        case("replicas, single", base.replace(replicas=2, micro_batch_tokens=1))
        case("reduced once", base.replace(reduce_once=True, micro_batch_tokens=1))
        case("bfloat16", base.replace(dtype="bfloat16"))
    if dims.is_main:
        torch.save(results, Path(folder, f"{dims.world}.pt"))
    report({name: result["metrics"] for name, result in results.items()})
    dist.destroy_process_group()


def run(config: PolicyConfig, algorithm: AlgorithmConfig, dims, share: str) -> dict:
    """One update from the same weights on the same four groups."""
    policy = load_policy(config, dims)
    reference = None
    if algorithm.kl.weight:
        frozen = config.replace(freeze=["vision", "projector", "language"])
        reference = load_policy(frozen, dims)
    optimizer = build_optimizer(policy, config)
    gradients: dict[str, torch.Tensor] = {}

    def look(*_) -> None:
        for name, p in policy.hf.named_parameters():
            if p.requires_grad and p.grad is not None:
                gradients[name] = full_tensor(p.grad).clone()

    optimizer.register_step_pre_hook(look)
    passes = []
    for model in filter(None, (policy, reference)):
        block = model.family.vision_blocks(model.hf)[0]
        block.register_forward_pre_hook(lambda *_: passes.append(1))
    updater = Learner(
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        config=config,
        algorithm=algorithm,
        temperature=0.9,
        max_tokens=12,
        total_steps=10,
        dims=dims,
    )
    before = weights(policy)
    groups = groups_of(policy, config.path, dims, share)
    with counted("all_reduce") as sums, counted("reduce_scatter_single") as scatters:
        metrics = updater.update(groups, step=0)
    assert all(math.isfinite(v) for v in metrics.values()), metrics
    return {
        "metrics": metrics, "gradients": gradients, "passes": len(passes),
        "remembered": len(policy._vision_cache), "reductions": (len(sums), len(scatters)),
        "before": before, "after": weights(policy),
    }  # fmt: skip


@contextmanager
def counted(name: str) -> Iterator[list[int]]:
    """The calls by FSDP of one of torch.distributed's functions, an entry for each."""
    real, calls = getattr(dist, name), []

    def counting(*args: Any, **kwargs: Any) -> Any:
        if "_fully_shard" in sys._getframe(1).f_code.co_filename:
            calls.append(1)
        return real(*args, **kwargs)

    setattr(dist, name, counting)
    try:
        yield calls
    finally:
        setattr(dist, name, real)


def groups_of(policy, path: str, dims, share: str) -> list:
    """This rank's part of four groups; the sharing has no influence on one rank."""
    made = [
        group(prompt(path, kind, i), responses(policy.config, policy.banned, 4, i), i)
        for i, kind in enumerate(KINDS)
    ]
    if dims.world == 1:
        return made
    if share == "first":
        return made if dims.is_main else []
    if share == "text apart":
        text = [k == "text" for k in KINDS]
        return [g for g, t in zip(made, text, strict=True) if t != dims.is_main]
    return made[dims.rank :: dims.world]


def weights(policy) -> dict[str, torch.Tensor]:
    return {n: full_tensor(p.detach()).clone() for n, p in policy.hf.named_parameters()}


if __name__ == "__main__":
    main(*sys.argv[1:])
