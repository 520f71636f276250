"""GMPO (Zhao et al. 2025): the geometric mean of a response's clipped token ratios.

    c_t = min(A l_t, A clip(l_t, -clip_low, clip_high)) / A,  l_t = log(p(t) / p_old(t))
    L_t = -A exp(mean_t c_t)

with the mean advantage A of the response. Its one value stands at each of its tokens: aggregate
with seq-mean-token-mean, as the paper does.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.aggregation import sequence_mean
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options


class Gmpo(Options):
    """GMPO: the geometric mean of token ratios, each clipped in log space."""

    type: Literal["gmpo"] = "gmpo"
    clip_low: float = Field(0.4, ge=0, description="The log ratio is clipped below -clip_low.")
    clip_high: float = Field(0.4, ge=0, description="The log ratio is clipped above clip_high.")


@LOSSES.register(Gmpo)
def gmpo(inputs: LossInputs, options: Gmpo) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    log_ratio, advantages = inputs.log_ratio, inputs.advantages
    bounded = log_ratio.clamp(-options.clip_low, options.clip_high)
    sign = advantages.sign()
    worse = sign * (sign * log_ratio).minimum(sign * bounded)
    ratio = sequence_mean(worse, inputs.mask).exp()
    advantage = sequence_mean(advantages, inputs.mask)
    return TokenTerms(
        loss=(-advantage * ratio).expand_as(log_ratio),
        low=(log_ratio < -options.clip_low) & (advantages < 0),
        high=(log_ratio > options.clip_high) & (advantages > 0),
    )
