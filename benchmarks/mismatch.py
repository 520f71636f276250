"""How far trainer and engine are apart in bfloat16, with LM heads that round and that do not.

    python benchmarks/mismatch.py            all four pairs of heads, on both models
    python benchmarks/mismatch.py MODEL HEAD one engine ("rounded" or "float32"); prints JSON

The engine writes captions of a picture of noise, the trainer scores them: |log p - log p| per
token, in nats. Weights are random, but for the last norm, which is scaled until the logits are
spread as a trained model's are: what a rounded logit loses grows with its size. `means`: the share
of runs of 16 or 64 tokens, as a probe at the start takes them, whose mean is above 0.05.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import SHAPES, in_own_process, prompt_of
from torch import Tensor

from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy import logprobs
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.rollout.weight_sync import sync
from caprl_native.testing.tiny_models import write_tiny_vlm

MODELS: dict[str, dict[str, Any]] = {
    "4 x 128, 340 words": {},
    "8 x 512, 32,768 words": {"hidden": 512, "layers": 8, "vocab_size": 32_768},
}
HEADS = ("rounded", "float32")
SPREAD = 3.5  # standard deviation of a token's logits
CAPTIONS, TOKENS = 16, 128


@contextmanager
def trainer_head(kind: str) -> Iterator[None]:
    """The trainer's products as they are, or with results that are rounded to bfloat16."""
    original = logprobs._product

    def rounded(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b).float()

    logprobs._product = rounded if kind == "rounded" else original
    try:
        yield
    finally:
        logprobs._product = original


def figures(gaps: Tensor) -> dict[str, float]:
    """Of gaps `[captions, tokens]`."""
    found = {"mean": gaps.mean().item(), "max": gaps.max().item()}
    for length in (16, 64):
        means = gaps.reshape(-1, length).mean(1)
        found[f"means of {length} above 0.05"] = (means > 0.05).float().mean().item()
    return found


def measure(model: str, engine_head: str) -> dict[str, Any]:
    """By the trainer's head, for one of the engine's."""
    dims = init_distributed()
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_vlm(Path(folder) / "model", **MODELS[model])
        policy = load_policy(PolicyConfig(path=str(path), dtype="bfloat16"), dims)
        width = policy.config.get_text_config().hidden_size
        with torch.no_grad():
            policy.hf.model.language_model.norm.weight.mul_(SPREAD / (0.02 * width**0.5))
        engine = Engine(
            EngineSettings(
                EngineConfig(max_model_len=1024, max_num_seqs=CAPTIONS, kv_cache_gib=0.5),
                path=str(path),
                dtype="bfloat16",
                float32_head=engine_head == "float32",
                media_per_prompt=1,
            )
        )
        sync(policy, engine, everything=True)
        found = compared(policy, engine, prompt_of(path, SHAPES["image"], 0))
        engine.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    return found


@torch.no_grad()
def compared(policy: Any, engine: Engine, prompt: Any) -> dict[str, Any]:
    sampling = Sampling(n=CAPTIONS, max_tokens=TOKENS, banned=tuple(policy.banned), ignore_end=True)
    (out,) = engine.generate([prompt.for_engine()], sampling, seeds=[0])
    tokens = [c.token_ids for c in out.completions]
    theirs = torch.tensor([c.logprobs for c in out.completions])
    device = next(policy.parameters()).device
    row = PackedRow(prompt, tokens, list(range(CAPTIONS)))
    batch = collate([row], policy.positions).to(device)
    found = {}
    for head in HEADS:
        with trainer_head(head):
            ours = batch.table(policy(batch).logprobs).cpu()
        found[head] = figures((ours - theirs).abs())
    return found | {"nats per token": -theirs.mean().item()}


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(measure(*sys.argv[1:])), flush=True)
        return
    for model in MODELS:
        for engine_head in HEADS:
            found = in_own_process("mismatch.py", model, engine_head)
            for head in HEADS:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in found[head].items())
                print(f"{model}: engine {engine_head}, trainer {head}: {shown}", flush=True)


if __name__ == "__main__":
    main()
