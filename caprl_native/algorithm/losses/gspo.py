"""GSPO (Zheng et al. 2025): PPO's clip of one ratio for the whole response.

    s = exp(mean_t log(p(t) / p_old(t)))        the geometric mean of the token ratios
    L_t = max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high))

The same value stands at each token of a response; the paper aggregates with
seq-mean-token-mean, with clip_low = 3e-4 and clip_high = 4e-4.
"""

from __future__ import annotations

from typing import Literal

from caprl_native.algorithm.aggregation import limited
from caprl_native.algorithm.clipping import ClipOptions, clipped_ratio, sequence_log_ratio
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES


class Gspo(ClipOptions):
    """GSPO: one clipped importance ratio for each response."""

    type: Literal["gspo"] = "gspo"


@LOSSES.register(Gspo)
def gspo(inputs: LossInputs, options: Gspo) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    log_ratio = limited(sequence_log_ratio(inputs).expand_as(inputs.logprobs), inputs.limit)
    return clipped_ratio(log_ratio, inputs.advantages, options)
