"""The clipped importance ratio that several losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from caprl_native.algorithm.aggregation import limited, sequence_mean
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class ClipOptions(Options):
    """The bounds of the ratio, which the losses that clip it have in common."""

    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above 1 + clip_high.")
    dual_clip: float = Field(
        0.0, ge=0, description="Bound on the loss of negative advantages, > 1; 0: none."
    )

    @field_validator("dual_clip", "ratio_cap", check_fields=False)
    @classmethod
    def _off_or_above_one(cls, value: float) -> float:
        if value != 0 and value <= 1:
            raise ValueError("expected 0, or more than 1")
        return value


def clipped_ratio(
    log_ratio: Tensor, advantages: Tensor, options: ClipOptions, ratio_cap: float = 0.0
) -> TokenTerms:
    """PPO's pessimistic bound max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), `[B, T]`.

    `dual_clip` bounds the loss of negative advantages at dual_clip |A|; `ratio_cap` bounds the
    unclipped ratio; 0: neither.
    """
    low, high, dual_clip = 1.0 - options.clip_low, 1.0 + options.clip_high, options.dual_clip
    ratio = log_ratio.exp()
    free = ratio.clamp(max=ratio_cap) if ratio_cap else ratio
    bounded = ratio.clamp(low, high)
    loss = (-advantages * free).maximum(-advantages * bounded)
    dual = None
    if dual_clip:
        ceiling = -advantages * dual_clip
        dual = (advantages < 0) & (loss > ceiling)
        loss = loss.minimum(ceiling).where(advantages < 0, loss)
    return TokenTerms(
        loss=loss,
        low=(ratio < low) & (advantages < 0),
        high=(ratio > high) & (advantages > 0),
        dual=dual,
    )


def sequence_log_ratio(inputs: LossInputs) -> Tensor:
    """The mean of a response's log ratios, `[B, 1]`: the log of the geometric mean of ratios."""
    return sequence_mean(inputs.logprobs - inputs.old_logprobs, inputs.mask)


def per_token(sequence: Tensor, inputs: LossInputs) -> Tensor:
    """`sequence` `[B, 1]` at each token, `[B, T]`; its gradient is that of the token alone."""
    own = inputs.logprobs - inputs.logprobs.detach()
    return limited(own + sequence.detach(), inputs.limit)
