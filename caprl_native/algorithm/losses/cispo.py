"""CISPO (MiniMax-M1, 2025): policy gradient weighted with the clipped, detached ratio.

    L_t = -A_t sg(clip(r_t, 1 - clip_low, 1 + clip_high)) log p(t),  r_t = p(t) / p_old(t)

Every token keeps a gradient; only its weight is bounded.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options


class Cispo(Options):
    """CISPO: the ratio, clipped and without a gradient, weighs each token's log-prob."""

    type: Literal["cispo"] = "cispo"
    clip_low: float = Field(
        1.0, ge=0, le=1, description="The weight is at least 1 - clip_low; 1: no lower bound."
    )
    clip_high: float = Field(4.0, ge=0, description="The weight is at most 1 + clip_high.")


@LOSSES.register(Cispo)
def cispo(inputs: LossInputs, options: Cispo) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    low, high = 1.0 - options.clip_low, 1.0 + options.clip_high
    ratio = inputs.log_ratio.detach().exp()
    return TokenTerms(
        loss=-inputs.advantages * ratio.clamp(low, high) * inputs.logprobs,
        low=ratio < low,
        high=ratio > high,
    )
