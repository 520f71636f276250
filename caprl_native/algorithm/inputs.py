"""What the entries of the registries get, and what they return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caprl_native.algorithm.aggregation import limited, masked

if TYPE_CHECKING:
    from torch import Tensor

    from caprl_native.algorithm.groups import GroupStatistics

LOG_RATIO_LIMIT = 20.0  # nats: one freak token must not overflow `exp`


@dataclass(frozen=True)
class LossInputs:
    """What a loss is a function of: `[B, T]` each, one row per response, 0 outside the mask."""

    logprobs: Tensor  # of the policy, nats, with a graph
    old_logprobs: Tensor  # before the update: `algorithm.old` says whose
    log_ratio: Tensor  # logprobs - old_logprobs, within +-limit, with a graph
    advantages: Tensor
    mask: Tensor  # bool: the response's tokens
    limit: float | None = LOG_RATIO_LIMIT  # of log ratios, nats; None: off

    @classmethod
    def of(
        cls,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        limit: float | None = LOG_RATIO_LIMIT,
    ) -> LossInputs:
        """From raw tables `[B, T]`; `advantages` may be `[B, 1]`."""
        return cls(
            logprobs=masked(logprobs, mask),
            old_logprobs=masked(old_logprobs, mask),
            log_ratio=limited(masked(logprobs - old_logprobs, mask), limit),
            advantages=masked(advantages.expand_as(logprobs), mask),
            mask=mask,
            limit=limit,
        )


@dataclass(frozen=True)
class TokenTerms:
    """What a loss says about each token, `[B, T]`: the loss, and where (bool) it was clipped.

    None: it never is.
    """

    loss: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    dual: Tensor | None = None


@dataclass(frozen=True)
class AdvantageInputs:
    """The rewards of the batch's responses, those of all ranks, B in number."""

    groups: GroupStatistics  # of the total rewards
    lengths: Tensor  # `[B]`, tokens, float64
    terms: dict[str, GroupStatistics]  # of each reward term; NaN where it is missing
    weights: dict[str, float]  # of each reward term
    parts: dict[str, GroupStatistics] = field(default_factory=dict)  # "term/part"; NaN: missing


@dataclass(frozen=True)
class CorrectionInputs:
    """Trainer and engine on the engine's tokens: `[B, T]` each, log-probs in nats, no graph."""

    logprobs: Tensor  # the trainer's, now
    old_logprobs: Tensor  # the trainer's, before the update
    engine_logprobs: Tensor
    advantages: Tensor
    mask: Tensor  # bool
    limit: float | None = LOG_RATIO_LIMIT  # of log ratios, nats; None: off


@dataclass(frozen=True)
class Correction:
    """`[B, T]`: factors of the token losses, and where (bool) they are not what they would be."""

    weights: Tensor
    clipped: Tensor
