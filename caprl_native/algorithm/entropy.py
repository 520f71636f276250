"""Entropy and log-probs from logits, right for banned tokens (logit of minus infinity) too."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_from_logits(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature): `[..., V]` -> `[...]`.

    A token of probability 0 contributes 0 (p log p -> 0), so banned tokens neither give NaN nor
    break the gradient. Half precision is computed in float32.
    """
    logp = torch.log_softmax(_wide(logits) / temperature, dim=-1)
    p = logp.exp()
    return -(p * torch.where(p > 0, logp, torch.zeros_like(logp))).sum(-1)


def label_logprobs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at `labels`, nats: `[..., V]`, `[...]` -> `[...]`.

    The temperature is the one that was sampled with; a banned label gives minus infinity.
    """
    scaled = _wide(logits) / temperature
    chosen = scaled.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(scaled, dim=-1)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
