"""Log-probs of given tokens from hidden states, without logits for all of them at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def _chunk(
    hidden: Tensor, weight: Tensor, ids: Tensor, banned: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight).float() / temperature
    logits = logits.index_fill(-1, banned, float("-inf"))
    logz = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, ids[:, None]).squeeze(-1) - logz
    with torch.no_grad():
        surprise = logz[:, None] - logits
        p = torch.exp(-surprise)
        # 0 * inf would be NaN: banned tokens have no mass and add nothing.
        entropy = torch.where(p > 0, p * surprise, 0.0).sum(-1)
    return logprobs, entropy


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    banned: Tensor,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of tokens under `softmax(hidden @ weight.T / temperature)`.

    Args:
        hidden: `[T, D]` final hidden states that predict the tokens.
        weight: `[V, D]` of the LM head.
        ids: `[T]`.
        banned: ids of tokens whose probability is zero by decree (media pad tokens).
        temperature: that of the sampling, so that the numbers speak of the same distribution.
        chunk: how many tokens' logits exist at one time, in the forward and in the backward pass.

    Returns:
        log-probs `[T]` (differentiable) and entropies `[T]` (not), nats, float32.
    """
    parts = [
        checkpoint(
            _chunk, hidden[i : i + chunk], weight, ids[i : i + chunk], banned, temperature,
            use_reentrant=False, preserve_rng_state=False,
        )
        for i in range(0, max(len(ids), 1), chunk)
    ]  # fmt: skip
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)
