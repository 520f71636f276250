"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from caprl_native.config import PolicyConfig


def build_optimizer(model: nn.Module, config: PolicyConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that train; biases and norms get no weight decay.

    Raises:
        ValueError: every parameter is frozen.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"policy.freeze = {config.freeze} leaves nothing to train")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.lr,
        betas=tuple(config.betas),
        eps=config.eps,
        fused=True,
    )


def learning_rate(config: PolicyConfig, step: int, steps: int) -> float:
    """The learning rate of update `step` (from 0) of `steps`: warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
    }[config.schedule]
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * max(shape, 0.0))
