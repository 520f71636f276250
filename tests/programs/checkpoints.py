"""Training, saving and loading on any number of ranks; rank 0 leaves full copies for comparison.

Arguments: "save" or "load", the model directory, a folder; after "load", "engine" starts one too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from caprl_native import checkpoint
from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.export import Exporter, export
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import processor_kwargs
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.testing.samples import MEDIA, prompt
from tests.ranks import report


def main(mode: str, path: str, folder: str, engine: str = "no engine") -> None:
    layout = init_distributed()
    config = PolicyConfig(path=path, dtype="float32", lr=1e-3, weight_decay=0.1)
    policy = load_policy(config, layout)
    optimizer = build_optimizer(policy, config)
    root = Path(folder, "checkpoints")
    found = {}
    if mode == "save":
        for step in range(1, 5):
            train(policy, optimizer, step)
            state = {"loader": {"epoch": step, "order": [3, 1, 2]}}
            copy = Exporter(policy, path, "bfloat16")
            checkpoint.save(
                root, step, policy, optimizer, state, keep=2, export=copy, keep_exports=3
            )
        write(policy, optimizer, layout, Path(folder, "saved.pt"))
        found["steps"] = checkpoint.steps(root)
    else:
        step = checkpoint.find(root, "latest")
        found["state"] = checkpoint.load(root, step, policy, optimizer)
        write(policy, optimizer, layout, Path(folder, f"loaded_{layout.world}.pt"))
        if engine == "engine":
            export(policy, path, Path(folder, "export"), "float32")
            found["gaps"] = engine_gaps(policy, Path(folder, "export"))
    train(policy, optimizer, 5)
    write(policy, optimizer, layout, Path(folder, f"{mode}_{layout.world}_and_on.pt"))
    if mode == "save":
        export(policy, path, Path(folder, "export_2"), "bfloat16")
    report(found)
    if dist.is_initialized():
        dist.destroy_process_group()


def train(policy, optimizer, step: int) -> None:
    """An optimizer step; the gradients depend on the step and the weights, not on the ranks."""
    for parameter in policy.parameters():
        parameter.grad = torch.sin(parameter.detach() * 50 + step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def write(policy, optimizer, layout, target: Path) -> None:
    """Weights and optimizer state, whole, by parameter name."""
    whole = {}
    for name, parameter in policy.hf.named_parameters():
        whole[name] = full_tensor(parameter.detach()).clone()
        for key, value in optimizer.state[parameter].items():
            whole[f"{name} {key}"] = full_tensor(value).clone()
    if layout.is_main:
        torch.save(whole, target)


@torch.no_grad()
def engine_gaps(policy, exported: Path) -> list[float]:
    """|log p(trainer) - log p(a fresh engine on the export)|, mean for an image and a video."""
    engine = Engine(
        EngineSettings(
            EngineConfig(
                max_model_len=1024,
                max_num_seqs=16,
                kv_cache_gib=0.05,
                gpu_memory_utilization=0.3,
            ),
            path=str(exported),
            dtype="float32",
            mm_processor_kwargs=processor_kwargs(str(exported), MEDIA),
            media_per_prompt=2,
        )
    )
    gaps = []
    for kind in ("image", "video"):
        given = prompt(exported, kind)
        sampling = Sampling(max_tokens=32, banned=tuple(policy.banned))
        (out,) = engine.generate([given.for_engine()], sampling, seeds=[1])
        written = out.completions[0]
        assert out.prompt_ids == given.ids.tolist()
        batch = collate([PackedRow(given, [written.token_ids], [0])], policy.positions)
        logprobs = policy(batch).logprobs
        gaps.append((logprobs - torch.tensor(written.logprobs)).abs().mean().item())
    engine.close()
    return gaps


if __name__ == "__main__":
    main(*sys.argv[1:])
