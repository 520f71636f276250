"""What a micro-batch adds to the loss and the metrics, as `[algorithm]` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import Denominators
from caprl_native.algorithm.inputs import CorrectionInputs
from caprl_native.algorithm.objective import corrections_of, kl_loss, policy_loss
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.observe.metrics import Max, Metric, Sum
from caprl_native.registry import Options


@dataclass(frozen=True)
class TokenTables:
    """A micro-batch's responses, one row each: `[R, T]`, log-probs in nats."""

    logprobs: Tensor  # with a graph
    entropy: Tensor  # of each token, in any shape
    engine: Tensor
    before: Tensor  # the trainer's log-probs before the update; where none were kept, those now
    reference: Tensor | None
    advantages: Tensor  # `[R, 1]`
    mask: Tensor  # bool


def needs_old_logprobs(algorithm: AlgorithmConfig) -> bool:
    """Whether anything asks for the trainer's log-probs before the update; what a plugin brings
    is taken to do so."""
    others = (c.type not in ("none", "off_policy_mask") for c in algorithm.corrections.values())
    return algorithm.old == "trainer" or any(others)


def objective(
    tables: TokenTables, algorithm: AlgorithmConfig, denominators: Denominators
) -> tuple[Tensor, dict[str, Metric]]:
    """This micro-batch's share of the loss (a scalar with a graph) and of the metrics.

    Shares of micro-batches and ranks add up.
    """
    logprobs, mask = tables.logprobs, tables.mask
    old = tables.engine if algorithm.old == "engine" else tables.before
    weights, clipped = _corrections(tables, algorithm.corrections)
    shared: dict[str, Any] = {
        "aggregation": algorithm.aggregation,
        "denominators": denominators,
    }
    loss, ratios = policy_loss(
        logprobs, old, tables.advantages, mask, algorithm.loss, weights_bt=weights, **shared
    )
    kl, kl_mean = torch.zeros_like(loss), ratios["kl"]
    if tables.reference is not None:
        kl, distance = kl_loss(logprobs, tables.reference, mask, algorithm.kl, **shared)
        kl_mean = distance["kl_reference"]
    # Before the update: later mini-batches of a step see a policy that has moved.
    gap = torch.where(mask, (tables.before - tables.engine).abs(), 0.0)
    loss = loss + algorithm.kl.weight * kl
    tokens = denominators.tokens
    return loss, {
        "policy/loss": Sum(loss.detach()),
        "policy/entropy": Sum(tables.entropy.sum() / tokens),
        "policy/kl": Sum(kl_mean.detach()),
        "policy/clip_frac": Sum(ratios["clip_frac"]),
        "mismatch/logprob_abs_mean": Sum(gap.sum() / tokens),
        "mismatch/logprob_abs_max": Max(gap.max()),
        **{f"mismatch/{name}_clipped_frac": Sum(t.sum() / tokens) for name, t in clipped.items()},
    }


def _corrections(
    tables: TokenTables, corrections: Mapping[str, Options]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    inputs = CorrectionInputs(
        logprobs=tables.logprobs.detach(),
        old_logprobs=tables.before,
        engine_logprobs=tables.engine,
        advantages=tables.advantages.expand_as(tables.mask),
        mask=tables.mask,
    )
    return corrections_of(inputs, corrections)
