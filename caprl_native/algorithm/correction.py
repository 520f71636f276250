"""Correction for an engine whose probabilities differ a little from the trainer's.

Samples come from the engine, gradients from the trainer; the importance ratio is
r = p_trainer / p_engine of the sampled tokens. Weights multiply token losses (`weights_bt` of
`policy_loss`), masks select tokens. Neither is differentiated. All tensors are `[B, T]`, log-probs
in nats; `trainer_bt` are the trainer's log-probs before the update, `logprobs_bt` the current ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import limited, masked, sequence_mean

RatioLevel = Literal["token", "sequence", "geometric"]


@torch.no_grad()
def importance_ratio(
    trainer_bt: Tensor,
    engine_bt: Tensor,
    mask_bt: Tensor,
    level: RatioLevel = "token",
    limit: float | None = 20.0,
) -> Tensor:
    """r `[B, T]`, 0 outside the mask: of each token, or of the sequence (the same at its tokens).

    `sequence` is the product of the token ratios, `geometric` their geometric mean. `limit` clamps
    log ratios in nats, of tokens and of products, before `exp`; None: no limit.
    """
    log_ratio = limited(masked(trainer_bt - engine_bt, mask_bt), limit)
    if level == "sequence":
        log_ratio = limited(log_ratio.sum(-1, keepdim=True), limit).expand_as(log_ratio)
    elif level == "geometric":
        log_ratio = sequence_mean(log_ratio, mask_bt).expand_as(log_ratio)
    elif level != "token":
        raise ValueError(f"unknown ratio level {level!r}; valid: token, sequence, geometric")
    return masked(log_ratio.exp(), mask_bt)


@torch.no_grad()
def importance_weights(
    trainer_bt: Tensor,
    engine_bt: Tensor,
    mask_bt: Tensor,
    *,
    level: RatioLevel = "token",
    mode: Literal["truncate", "mask"] = "truncate",
    low: float = 0.0,
    high: float = 2.0,
    limit: float | None = 20.0,
) -> Tensor:
    """Weights `[B, T]` for the token losses, 0 outside the mask.

    `truncate` clamps r to [low, high] (truncated importance sampling, Yao et al. 2025); `mask`
    keeps r inside [low, high] and gives 0 outside (IcePop, Ling team 2025).
    """
    ratio = importance_ratio(trainer_bt, engine_bt, mask_bt, level, limit)
    if mode == "mask":
        return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)
    if mode != "truncate":
        raise ValueError(f"unknown correction mode {mode!r}; valid: truncate, mask")
    return masked(ratio.clamp(low, high), mask_bt)


@torch.no_grad()
def normalise_weights(weights_bt: Tensor, mask_bt: Tensor, level: RatioLevel = "token") -> Tensor:
    """Weights scaled to mean 1 over tokens, or over non-empty sequences for the other levels.

    The mean is this call's: give it the whole batch, or the loss depends on how that is cut.
    """
    if level == "token":
        count, total = (mask_bt != 0).sum(), masked(weights_bt, mask_bt).sum()
    else:
        count = (mask_bt != 0).any(-1).sum()
        total = sequence_mean(weights_bt, mask_bt).sum()
    mean = total / count.clamp(min=1)
    return torch.where(mean > 0, weights_bt / mean, weights_bt)


@torch.no_grad()
def range_keep(
    trainer_bt: Tensor,
    engine_bt: Tensor,
    mask_bt: Tensor,
    *,
    level: RatioLevel = "token",
    low: float = 0.0,
    high: float = math.inf,
    limit: float | None = 20.0,
) -> Tensor:
    """Bool `[B, T]`: tokens of the mask whose ratio, or whose sequence's, lies in [low, high]."""
    ratio = importance_ratio(trainer_bt, engine_bt, mask_bt, level, limit)
    return (mask_bt != 0) & (ratio >= low) & (ratio <= high)


@torch.no_grad()
def divergence_keep(
    trainer_bt: Tensor,
    engine_bt: Tensor,
    mask_bt: Tensor,
    *,
    high: float,
    estimator: Literal["k2", "k3"] = "k3",
    over: Literal["token", "mean", "sum", "max"] = "mean",
) -> Tensor:
    """Bool `[B, T]`: tokens whose divergence from the engine is at most `high`, inside the mask.

    `estimator` of KL(engine || trainer) from the log ratio d: k2 = d^2 / 2, k3 = exp(d) - 1 - d.
    It is taken of the token, or is its sequence's `mean`, `sum` or `max`.
    """
    d = masked(trainer_bt - engine_bt, mask_bt).clamp(-20.0, 20.0)
    if estimator not in ("k2", "k3"):
        raise ValueError(f"unknown divergence {estimator!r}; valid: k2, k3 (ratios: range_keep)")
    value = 0.5 * d.square() if estimator == "k2" else d.expm1() - d
    if over == "mean":
        value = sequence_mean(value, mask_bt)
    elif over == "sum":
        value = value.sum(-1, keepdim=True)
    elif over == "max":
        value = value.amax(-1, keepdim=True)
    return (mask_bt != 0) & (value <= high)


@torch.no_grad()
def off_policy_keep(
    logprobs_bt: Tensor, engine_bt: Tensor, advantages_bt: Tensor, mask_bt: Tensor, high: float
) -> Tensor:
    """Bool `[B, T]`: drops negative-advantage tokens of sequences that left the engine too far.

    Distance is the sequence's mean of log p_engine - log p (DeepSeek-V3.2).
    """
    distance = sequence_mean(engine_bt - logprobs_bt, mask_bt)
    return (mask_bt != 0) & ((advantages_bt >= 0) | (distance <= high))


@torch.no_grad()
def total_variation_keep(
    trainer_bt: Tensor,
    engine_bt: Tensor,
    advantages_bt: Tensor,
    mask_bt: Tensor,
    *,
    high: float,
    low: float = 0.0,
) -> Tensor:
    """Bool `[B, T]`: in sequences whose mean |r - 1| leaves [low, high], drops the tokens whose
    update would carry them further away, advantage * log r > 0 (VACO)."""
    ratio = importance_ratio(trainer_bt, engine_bt, mask_bt)
    distance = sequence_mean((ratio - 1.0).abs(), mask_bt)
    away = advantages_bt * (trainer_bt - engine_bt) > 0
    return (mask_bt != 0) & ~(away & ((distance > high) | (distance < low)))


@torch.no_grad()
def probability_keep(
    logprobs_bt: Tensor,
    engine_bt: Tensor,
    mask_bt: Tensor,
    *,
    low: float,
    high: float,
    advantages_bt: Tensor | None = None,
) -> Tensor:
    """Bool `[B, T]`: tokens whose probability moved from the engine's by no more than a bound.

    p - p_engine must lie in [-low, high]; given `advantages_bt`, `high` binds positive advantages
    only and `low` the others (DPPO), else both bind all tokens.
    """
    moved = masked(logprobs_bt, mask_bt).exp() - masked(engine_bt, mask_bt).exp()
    above, below = moved > high, moved < -low
    outside = above | below
    if advantages_bt is not None:
        outside = torch.where(advantages_bt > 0, above, below)
    return (mask_bt != 0) & ~outside


@dataclass(frozen=True)
class Mismatch:
    """Trainer against engine over response tokens; pieces of a batch add up with `+`."""

    tokens: float = 0.0
    abs_sum: float = 0.0  # nats
    abs_max: float = 0.0  # nats
    clipped: float = 0.0  # tokens whose ratio is above the cap

    @classmethod
    def of(
        cls, trainer_bt: Tensor, engine_bt: Tensor, mask_bt: Tensor, cap: float = math.inf
    ) -> Mismatch:
        """Of one piece. A cap that is not positive counts as none."""
        distance = masked(trainer_bt - engine_bt, mask_bt).detach().double()
        bound = math.log(cap) if 0 < cap < math.inf else math.inf
        return cls(
            tokens=float((mask_bt != 0).sum()),
            abs_sum=float(distance.abs().sum()),
            abs_max=float(distance.abs().max()) if distance.numel() else 0.0,
            clipped=float((distance > bound).sum()),
        )

    def __add__(self, other: Mismatch) -> Mismatch:
        return Mismatch(
            self.tokens + other.tokens,
            self.abs_sum + other.abs_sum,
            max(self.abs_max, other.abs_max),
            self.clipped + other.clipped,
        )

    @property
    def metrics(self) -> dict[str, float]:
        """`logprob_abs_mean`, `logprob_abs_max` (nats), `tis_clipped_frac`."""
        tokens = max(self.tokens, 1.0)
        return {
            "logprob_abs_mean": self.abs_sum / tokens,
            "logprob_abs_max": self.abs_max,
            "tis_clipped_frac": self.clipped / tokens,
        }
