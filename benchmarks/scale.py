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
import time
from pathlib import Path
from typing import Any

import torch
from common import PROMPTS, SHAPES, N, Shape, summary
from step_side import Ours
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from caprl_native.policy.balance import Costs
from caprl_native.testing.tiny_models import write_tiny_vlm

LONG = Shape("video", 1000, frames=128, size=(320, 384))
REPEATS = 3
TEXT = dict(
    hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, vocab_size=151_936,
)  # fmt: skip
EYES = dict(
    depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16, out_hidden_size=2048,
    num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17],
)  # fmt: skip
ROTARY = {"mrope_section": [24, 20, 20], "rope_theta": 5e6}


def write_model(folder: str) -> None:
    """Random weights in Qwen3-VL-2B's shapes, with the tiny models' tokenizer and processors."""
    write_tiny_vlm(folder)
    config = AutoConfig.from_pretrained(folder)
    for part, values in ((config.text_config, TEXT), (config.vision_config, EYES)):
        for name, value in values.items():
            setattr(part, name, value)
    config.text_config.rope_parameters |= ROTARY
    Path(folder, "model.safetensors").unlink()
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    model.generation_config.update(eos_token_id=ends)
    model.save_pretrained(folder)


def matmul_flops(device: torch.device, size: int) -> float:
    """FLOP/s of a square product in the update's precision."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        (a @ a).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def measure(shape: Shape, folder: str) -> dict[str, Any]:
    side = Ours(folder, shape, checkpointing=True)
    trainer, flops = side.trainer, []
    costs, update = Costs.of(trainer.policy), trainer.learner.update

    def counted(groups: Any, step: int) -> Any:
        flops.append(3 * sum(costs.group(g) for g in groups))  # backward: twice the forward pass
        return update(groups, step)

    trainer.learner.update = counted
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
        "train_flops_per_s": flops[-1] / train["median"],
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
