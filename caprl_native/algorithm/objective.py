"""From log-probs `[B, T]` to the loss of a batch: policy gradient, KL term, corrections.

All tensors have one row per response, log-probs are in nats. Losses and metrics are contributions
to the whole batch's: they are divided by the batch's `Denominators`, so the plain SUM over
micro-batches and ranks is the batch's value.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import Aggregation, Denominators, aggregate, limited, masked
from caprl_native.algorithm.groups import GroupStatistics
from caprl_native.algorithm.inputs import (
    LOG_RATIO_LIMIT,
    AdvantageInputs,
    CorrectionInputs,
    LossInputs,
    TokenTerms,
)
from caprl_native.algorithm.kl_options import KlOptions, with_gradient_of_k2
from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES
from caprl_native.registry import Options


def advantages_of(
    rewards: Tensor,
    group: Tensor | Sequence[Hashable],
    options: Options,
    *,
    lengths: Tensor | None = None,
    terms: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
    parts: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One advantage per response, `[B]`, float64, from the rewards `[B]` of a whole batch.

    `group` has the id of each response's group. NaN is a missing reward; its advantage is 0.
    `lengths` `[B]` are tokens (None: all are equally long). `terms` are the rewards by term, each
    `[B]`, with their `weights`; `parts` what terms say to be made of, each `[B]`, by "term/part".
    """
    terms, parts = terms or {}, parts or {}
    inputs = AdvantageInputs(
        groups=GroupStatistics.of(rewards, group),
        lengths=torch.ones_like(rewards).double() if lengths is None else lengths.double(),
        terms={name: GroupStatistics.of(values, group) for name, values in terms.items()},
        weights=dict(weights or {}),
        parts={name: GroupStatistics.of(values, group) for name, values in parts.items()},
    )
    values: Tensor = ADVANTAGES[options.type].value(inputs, options)
    return torch.where(inputs.groups.known, values, 0.0)


def policy_loss(
    logprobs_bt: Tensor,
    old_logprobs_bt: Tensor,
    advantages_bt: Tensor,
    mask_bt: Tensor,
    options: Options,
    *,
    weights_bt: Tensor | None = None,
    aggregation: Aggregation = "token-mean",
    denominators: Denominators | None = None,
    log_ratio_limit: float | None = LOG_RATIO_LIMIT,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise (a scalar with a graph) and its metrics (detached scalars).

    `options` choose the loss. `advantages_bt` is `[B, T]` or `[B, 1]`. `weights_bt` (`[B, T]` or
    `[B, 1]`) multiplies the token losses; it is not differentiated and changes no denominator.
    `denominators` belongs to the whole batch; None: this call is the whole batch.

    Metrics: `clip_frac`, `clip_frac_low`, `clip_frac_high`, `clip_frac_dual` (shares of tokens),
    `kl` and `kl_k3` (old policy to new: mean of -log r, and of r - 1 - log r).
    """
    denominators = denominators or Denominators.of(mask_bt)
    inputs = LossInputs.of(logprobs_bt, old_logprobs_bt, advantages_bt, mask_bt, log_ratio_limit)
    terms: TokenTerms = LOSSES[options.type].value(inputs, options)
    loss_bt = terms.loss if weights_bt is None else terms.loss * weights_bt.detach()
    loss = aggregate(loss_bt, mask_bt, aggregation, denominators)
    drift = masked(logprobs_bt - old_logprobs_bt, mask_bt).detach()
    return loss, loss_metrics(terms, drift, mask_bt, denominators)


@torch.no_grad()
def loss_metrics(
    terms: TokenTerms, log_ratio: Tensor, mask_bt: Tensor, denominators: Denominators
) -> dict[str, Tensor]:
    """Contributions to the batch's token means; they add up over micro-batches and ranks."""
    never = torch.zeros_like(log_ratio, dtype=torch.bool)
    low, high, dual = (never if t is None else t for t in (terms.low, terms.high, terms.dual))

    def share(values: Tensor) -> Tensor:
        return aggregate(values.to(log_ratio.dtype), mask_bt, "token-mean", denominators)

    return {
        "clip_frac": share(low | high),
        "clip_frac_low": share(low),
        "clip_frac_high": share(high),
        "clip_frac_dual": share(dual),
        "kl": share(-log_ratio),
        "kl_k3": share(log_ratio.clamp(-20, 20).expm1() - log_ratio.clamp(-20, 20)),
    }


def kl_estimate(
    logprobs_bt: Tensor,
    reference_bt: Tensor,
    options: KlOptions,
    *,
    limit: float | None = LOG_RATIO_LIMIT,
) -> Tensor:
    """The estimate of KL(policy || reference) at each token, `[B, T]`, nats.

    `limit` clamps the difference of the log-probs; beyond a limit the gradient is zero, but for
    the kinds with a `+`, which keep their value and take the gradient of k2: on policy that is an
    unbiased gradient of the KL, which those of k1 and k3 are not.
    """
    difference = logprobs_bt - reference_bt
    value: Tensor = KL[options.type].value(limited(difference, limit), options)
    value = limited(value, options.value_limit or None)
    return with_gradient_of_k2(value, difference) if options.straight_through else value


def kl_loss(
    logprobs_bt: Tensor,
    reference_bt: Tensor,
    mask_bt: Tensor,
    options: KlOptions,
    *,
    aggregation: Aggregation = "token-mean",
    denominators: Denominators | None = None,
    limit: float | None = LOG_RATIO_LIMIT,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The KL term, to be multiplied by its weight and added to the policy loss.

    Returns a scalar with a graph and `{"kl_reference": token mean}`; both add up over
    micro-batches when `denominators` belongs to the whole batch (None: this is all of it).
    """
    denominators = denominators or Denominators.of(mask_bt)
    logprobs, reference = masked(logprobs_bt, mask_bt), masked(reference_bt, mask_bt)
    value = kl_estimate(logprobs, reference, options, limit=limit)
    mean = aggregate(value.detach(), mask_bt, "token-mean", denominators)
    return aggregate(value, mask_bt, aggregation, denominators), {"kl_reference": mean}


@torch.no_grad()
def corrections_of(
    inputs: CorrectionInputs, corrections: Mapping[str, Options]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The product of the corrections' weights `[B, T]` (None: there is none), and for each of
    them, by its name, where (bool) it clipped a weight or left a token out."""
    product, clipped = None, {}
    for name, options in corrections.items():
        correction = CORRECTIONS[options.type].value(inputs, options)
        if correction is None:
            clipped[name] = torch.zeros_like(inputs.mask, dtype=torch.bool)
            continue
        clipped[name] = correction.clipped
        product = correction.weights if product is None else product * correction.weights
    return product, clipped
