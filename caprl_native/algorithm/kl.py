"""Per-token estimators of KL(policy || reference) from the log-probs of sampled tokens.

With d = log p - log ref (nats): k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1; see J. Schulman,
"Approximating KL divergence" (2020). All are functions of `[B, T]` tensors.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from caprl_native.algorithm.aggregation import Aggregation, Denominators, aggregate, limited, masked

KlEstimator = Literal["k1", "k2", "k3", "abs", "k3_reverse", "k1+", "k2+", "k3+", "abs+"]


def kl_estimate(
    logprobs_bt: Tensor,
    reference_bt: Tensor,
    kind: KlEstimator = "k3",
    *,
    limit: float | None = 20.0,
    value_limit: float | None = None,
    ratio_bt: Tensor | None = None,
) -> Tensor:
    """The estimate of each token, `[B, T]`, nats, differentiable in `logprobs_bt`.

    `k3_reverse` is k3 with the roles exchanged, exp(d) - d - 1. A trailing `+` keeps the value and
    takes the gradient of k2, which (unlike those of k1 and k3) is an unbiased gradient of the KL
    for on-policy samples. `limit` clamps d and `value_limit` the estimate to +-, None: no limit;
    beyond a limit the gradient is zero (not so for `+`). `ratio_bt` (p / p_old) weights the
    estimate, for samples of an older policy. Raises ValueError for an unknown kind.
    """
    if kind not in get_args(KlEstimator):
        raise ValueError(
            f"unknown KL estimator {kind!r}; valid: {', '.join(get_args(KlEstimator))}"
        )
    difference = logprobs_bt - reference_bt
    value = limited(_ESTIMATORS[kind.removesuffix("+")](limited(difference, limit)), value_limit)
    if kind.endswith("+"):
        surrogate = 0.5 * difference.square()  # no limit: its gradient is d itself, never exp(d)
        value = surrogate - surrogate.detach() + value.detach()
    return value if ratio_bt is None else value * ratio_bt


_ESTIMATORS = {
    "k1": lambda d: d,
    "k2": lambda d: 0.5 * d.square(),
    "k3": lambda d: (-d).exp() + d - 1.0,
    "k3_reverse": lambda d: d.exp() - d - 1.0,
    "abs": lambda d: d.abs(),
}


def kl_loss(
    logprobs_bt: Tensor,
    reference_bt: Tensor,
    mask_bt: Tensor,
    *,
    kind: KlEstimator = "k3",
    limit: float | None = 20.0,
    value_limit: float | None = None,
    aggregation: Aggregation = "token-mean",
    denominators: Denominators | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The KL term, to be multiplied by its weight and added to the policy loss.

    Returns a scalar with a graph and `{"kl_reference": token mean}`; both add up over
    micro-batches when `denominators` belongs to the whole batch (None: this is all of it).
    """
    denominators = denominators or Denominators.of(mask_bt)
    value = kl_estimate(
        masked(logprobs_bt, mask_bt),
        masked(reference_bt, mask_bt),
        kind,
        limit=limit,
        value_limit=value_limit,
    )
    mean = aggregate(value.detach(), mask_bt, "token-mean", denominators)
    return aggregate(value, mask_bt, aggregation, denominators), {"kl_reference": mean}
