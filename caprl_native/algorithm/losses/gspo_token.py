"""GSPO-token (Zheng et al. 2025, section 4.3): GSPO's value, each token's own gradient.

    s_t = sg(s) p(t) / sg(p(t)),  s = exp(mean_t log(p(t) / p_old(t)))
    L_t = max(-A_t s_t, -A_t clip(s_t, 1 - clip_low, 1 + clip_high))

sg stops the gradient: d s_t / d log p(t) = s, and 0 for all other tokens. The log of s_t is at most
`max_log_ratio`, beyond which there is no gradient (verl, EasyR1 and TaskMem: 10).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.clipping import (
    ClipOptions,
    clipped_ratio,
    per_token,
    sequence_log_ratio,
)
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES


class GspoToken(ClipOptions):
    """GSPO-token: a response's clipped ratio, the advantage and the gradient of each token."""

    type: Literal["gspo_token"] = "gspo_token"
    max_log_ratio: float = Field(
        10.0, gt=0, description="The log of the ratio is at most this, in nats."
    )


@LOSSES.register(GspoToken)
def gspo_token(inputs: LossInputs, options: GspoToken) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    log_ratio = per_token(sequence_log_ratio(inputs), inputs)
    log_ratio = log_ratio.clamp(max=options.max_log_ratio)
    return clipped_ratio(log_ratio, inputs.advantages, options)
