"""A packed micro-batch through the policy against transformers, one sequence after the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.families.qwen import normalised
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import Prompt
from caprl_native.testing.samples import prompt, responses
from caprl_native.testing.tiny_models import write_tiny_vlm
from smoke.findings import Finding, Options, at_most, holds
from smoke.models import write_model

KINDS = ("images", "video", "text")
# Log-probs: mean gap in nats; gradients: norm of the difference over the norm, of all together.
LOGPROBS = {"float32": 2e-3, "bfloat16": 0.08}
GRADIENTS = {"float32": 1e-2, "bfloat16": 0.05}


def few_layers(options: Options) -> Path:
    """The 2B model's widths in two layers and two vision blocks; a tiny model on a CPU."""
    folder = options.scratch / "few_layers"
    if not (folder / "model.safetensors").exists():
        write_tiny_vlm(folder) if options.cpu else write_model(folder, layers=2, depth=2)
    return folder


class WholeModel:
    """Both sides, on the same weights, tokens and media; the reference in float32."""

    def __init__(self, options: Options, dtype: str) -> None:
        self.dtype, dims = dtype, init_distributed()
        path = few_layers(options)
        self.device = dims.device
        self.policy = load_policy(PolicyConfig(path=str(path), dtype=dtype), dims)
        self.hf: Any = load_hf(path).train().to(self.device)
        rows, first = [], 0
        for i, kind in enumerate(KINDS):
            tokens = responses(self.policy.config, self.policy.banned, 3, seed=i, longest=40)
            rows.append(PackedRow(prompt(path, kind, i), tokens, [first, first + 1, first + 2]))
            first += 3
        self.rows = rows
        self.batch = collate(rows, self.policy.positions).to(self.device)
        self.scale = torch.linspace(-1.0, 1.0, len(self.batch.places), device=self.device)

    def log_probs(self) -> Finding:
        self.policy.zero_grad()
        self.hf.zero_grad()
        found = self.policy(self.batch).logprobs
        wanted = torch.cat(
            [reference(self.hf, self.policy, r.prompt, t) for r in self.rows for t in r.responses]
        )
        gap = (found - wanted).abs().mean().item()
        (found * self.scale).sum().backward()
        (wanted * self.scale).sum().backward()
        return at_most(gap, LOGPROBS[self.dtype])

    def gradients(self) -> Finding:
        """Of the weighted log-probs, all parameters together."""
        theirs = {n: p.grad for n, p in self.hf.named_parameters() if p.grad is not None}
        mine = dict(self.policy.hf.named_parameters())
        apart = whole = torch.zeros((), device=self.device)
        for name, wanted in theirs.items():
            grad = mine[name].grad
            assert grad is not None, f"{name} has no gradient"
            apart = apart + (full_tensor(grad) - wanted).square().sum()
            whole = whole + wanted.square().sum()
        return at_most((apart / whole).sqrt().item(), GRADIENTS[self.dtype])

    def uses_varlen(self) -> Finding:
        """Whether the operator runs in a pass with media, and not one call for each segment."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
            self.policy(self.batch)
        calls = sum(e.count for e in seen.key_averages() if "varlen_attn" in e.key)
        told = f"{calls} calls" if calls else "not built yet: no call of the operator"
        return holds(told, calls > 0, "at least one call")


def reference(hf: Any, policy: Policy, given: Prompt, tokens: list[int]) -> Tensor:
    """Log-probs `[T]` of one response by a plain forward pass."""
    device = hf.device
    tail = torch.tensor(tokens)
    own = policy.positions(given)
    after = int(own.max()) + 1 + torch.arange(len(tail)).expand(3, -1)
    inputs = {
        "input_ids": torch.cat([given.ids, tail])[None],
        "mm_token_type_ids": torch.cat([given.token_types, torch.zeros_like(tail)])[None],
        "position_ids": torch.cat([own, after], dim=1)[:, None],
    }
    if given.media is not None:
        video = bool((given.token_types == 2).any())
        inputs["pixel_values_videos" if video else "pixel_values"] = normalised(given.media)
        inputs["video_grid_thw" if video else "image_grid_thw"] = given.media["grid"]
    out = hf(**{name: value.to(device) for name, value in inputs.items()})
    logits = out.logits[0, len(given) - 1 : -1].float()
    logits = logits.index_fill(-1, torch.tensor(policy.banned, device=device), -math.inf)
    return logits.log_softmax(-1).gather(1, tail.to(device)[:, None])[:, 0]
