"""Policy-gradient losses: pure functions of log-probs, advantages and masks.

All tensors are `[B, T]`, one row per response, log-probs in nats. Both the loss and the metrics
are contributions to the whole batch's: they are divided by the batch's `Denominators`, so the
plain SUM over micro-batches and ranks is the batch's value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import (
    Aggregation,
    Denominators,
    aggregate,
    limited,
    masked,
    sequence_mean,
)

PolicyLoss = Literal["ppo", "gspo", "gspo_token", "cispo", "gmpo", "sapo", "reinforce"]


@dataclass(frozen=True)
class TokenTerms:
    """What a loss says about each token `[B, T]`: the loss, and where it was clipped."""

    loss: Tensor
    low: Tensor
    high: Tensor
    dual: Tensor


def policy_loss(
    logprobs_bt: Tensor,
    old_logprobs_bt: Tensor,
    advantages_bt: Tensor,
    mask_bt: Tensor,
    *,
    kind: PolicyLoss = "ppo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    ratio_cap: float | None = None,
    log_ratio_limit: float | None = 20.0,
    sapo_temperatures: tuple[float, float] = (1.0, 1.05),
    weights_bt: Tensor | None = None,
    aggregation: Aggregation = "token-mean",
    denominators: Denominators | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise (a scalar with a graph) and its metrics (detached scalars).

    - `ppo`: clipped ratio per token (Schulman et al. 2017), `clip_low` / `clip_high` as in DAPO;
      infinity switches a bound off, both give plain importance sampling.
    - `gspo`: the ratio is the geometric mean over the sequence (Zheng et al. 2025);
      `gspo_token` has the same value, but each token's own advantage steers its own gradient.
    - `cispo`: REINFORCE weighted by the clipped, detached ratio (MiniMax-M1).
    - `gmpo`: geometric mean of token ratios, clipped in log space (Zhao et al. 2025).
    - `sapo`: a smooth gate instead of clipping, with `sapo_temperatures` for positive advantages
      and for the others.
    - `reinforce`: -A log p; `old_logprobs_bt` then only feeds the metrics.

    `advantages_bt` is `[B, T]` or `[B, 1]`. `dual_clip` > 1 bounds the loss of negative advantages
    at `dual_clip * |A|` (ppo, gspo); `ratio_cap` bounds the unclipped ratio itself.
    `log_ratio_limit` clamps log ratios (None: off), so that one freak token cannot overflow `exp`.
    `weights_bt` (`[B, T]` or `[B, 1]`, e.g. from `correction.py`) multiplies the token losses; it
    is not differentiated and changes no denominator. `denominators` belongs to the whole batch;
    None: this call is the whole batch.

    Metrics: `clip_frac`, `clip_frac_low`, `clip_frac_high`, `clip_frac_dual` (shares of tokens),
    `kl` and `kl_k3` (old policy to new: mean of -log r, and of r - 1 - log r).
    """
    if kind not in get_args(PolicyLoss):
        raise ValueError(f"unknown policy loss {kind!r}; valid: {', '.join(get_args(PolicyLoss))}")
    denominators = denominators or Denominators.of(mask_bt)
    log_ratio = limited(masked(logprobs_bt - old_logprobs_bt, mask_bt), log_ratio_limit)
    advantages = masked(advantages_bt.expand_as(logprobs_bt), mask_bt)
    if kind in ("ppo", "gspo", "gspo_token"):
        if kind != "ppo":
            log_ratio = sequence_log_ratio(
                logprobs_bt, old_logprobs_bt, mask_bt, per_token=kind == "gspo_token"
            )
            log_ratio = limited(log_ratio, log_ratio_limit)
        terms = clipped_ratio(log_ratio, advantages, clip_low, clip_high, dual_clip, ratio_cap)
    elif kind == "cispo":
        terms = cispo(masked(logprobs_bt, mask_bt), log_ratio, advantages, clip_low, clip_high)
    elif kind == "gmpo":
        terms = gmpo(log_ratio, advantages, mask_bt, clip_low, clip_high)
    elif kind == "sapo":
        terms = sapo(log_ratio, advantages, *sapo_temperatures)
    else:
        terms = unclipped(-advantages * masked(logprobs_bt, mask_bt))
    loss_bt = terms.loss if weights_bt is None else terms.loss * weights_bt.detach()
    loss = aggregate(loss_bt, mask_bt, aggregation, denominators)
    drift = masked(logprobs_bt - old_logprobs_bt, mask_bt).detach()
    return loss, loss_metrics(terms, drift, mask_bt, denominators)


def clipped_ratio(
    log_ratio: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    ratio_cap: float | None,
) -> TokenTerms:
    """PPO's pessimistic bound, max(-A r, -A clip(r)), `[B, T]`, with an optional dual clip."""
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip must be greater than 1, not {dual_clip}")
    ratio = log_ratio.exp()
    free = ratio if ratio_cap is None else ratio.clamp(max=ratio_cap)
    loss = torch.maximum(
        -advantages * free, -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    )
    dual = torch.zeros_like(ratio, dtype=torch.bool)
    if dual_clip is not None:
        ceiling = -advantages * dual_clip
        dual = (advantages < 0) & (loss > ceiling)
        loss = torch.where(advantages < 0, torch.minimum(loss, ceiling), loss)
    return TokenTerms(
        loss=loss,
        low=(ratio < 1.0 - clip_low) & (advantages < 0),
        high=(ratio > 1.0 + clip_high) & (advantages > 0),
        dual=dual,
    )


def sequence_log_ratio(
    logprobs_bt: Tensor, old_logprobs_bt: Tensor, mask_bt: Tensor, per_token: bool = False
) -> Tensor:
    """GSPO's length-normalised log ratio of the whole sequence, `[B, T]` (the same along T).

    `per_token`: the same value, but d/d logprob_t is 1 for token t alone (GSPO-token).
    """
    mean = sequence_mean(logprobs_bt - old_logprobs_bt, mask_bt)
    if not per_token:
        return mean.expand_as(logprobs_bt)
    own = masked(logprobs_bt, mask_bt)
    return own - own.detach() + mean.detach()


def cispo(
    logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> TokenTerms:
    """-A sg(clip(r)) log p: every token keeps a gradient, its weight is bounded."""
    ratio = log_ratio.detach().exp()
    weight = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return TokenTerms(
        loss=-advantages * weight * logprobs,
        low=ratio < 1.0 - clip_low,
        high=ratio > 1.0 + clip_high,
        dual=torch.zeros_like(ratio, dtype=torch.bool),
    )


def gmpo(
    log_ratio: Tensor, advantages: Tensor, mask_bt: Tensor, clip_low: float, clip_high: float
) -> TokenTerms:
    """-A times the geometric mean of pessimistically clipped token ratios.

    `clip_low` and `clip_high` bound the log ratio, in nats. The sequence's mean advantage is used,
    and its one loss value stands at each of its tokens, so aggregate with `seq-mean-token-mean`.
    """
    bounded = log_ratio.clamp(-clip_low, clip_high)
    sign = advantages.sign()
    worse = sign * torch.minimum(sign * log_ratio, sign * bounded)
    ratio = sequence_mean(worse, mask_bt).exp()
    advantage = sequence_mean(advantages, mask_bt)
    return TokenTerms(
        loss=(-advantage * ratio).expand_as(log_ratio),
        low=(log_ratio < -clip_low) & (advantages < 0),
        high=(log_ratio > clip_high) & (advantages > 0),
        dual=torch.zeros_like(log_ratio, dtype=torch.bool),
    )


def sapo(log_ratio: Tensor, advantages: Tensor, positive: float, other: float) -> TokenTerms:
    """-A (4 / tau) sigmoid(tau (r - 1)), with its own tau for positive and for other advantages."""
    tau = torch.full_like(log_ratio, other).masked_fill(advantages > 0, positive)
    gate = torch.sigmoid(tau * (log_ratio.exp() - 1.0)) * (4.0 / tau)
    return unclipped(-advantages * gate)


def unclipped(loss: Tensor) -> TokenTerms:
    """The terms of a loss that clips nothing."""
    never = torch.zeros_like(loss, dtype=torch.bool)
    return TokenTerms(loss=loss, low=never, high=never, dual=never)


@torch.no_grad()
def loss_metrics(
    terms: TokenTerms, log_ratio: Tensor, mask_bt: Tensor, denominators: Denominators
) -> dict[str, Tensor]:
    """Contributions to the batch's token means; they add up over micro-batches and ranks."""

    def share(values: Tensor) -> Tensor:
        return aggregate(values.to(log_ratio.dtype), mask_bt, "token-mean", denominators)

    return {
        "clip_frac": share(terms.low | terms.high),
        "clip_frac_low": share(terms.low),
        "clip_frac_high": share(terms.high),
        "clip_frac_dual": share(terms.dual),
        "kl": share(-log_ratio),
        "kl_k3": share(log_ratio.clamp(-20, 20).expm1() - log_ratio.clamp(-20, 20)),
    }
