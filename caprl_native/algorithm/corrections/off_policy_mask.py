"""Off-policy sequence masking (DeepSeek-V3.2, 2025).

    weight = 0 where A < 0 and mean_t (log p_engine(t) - log p(t)) > high, else 1

Responses that the policy has moved away from teach nothing by being bad. The distance is that of
the policy now, so it grows over the updates of a batch too. Denominators do not change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.aggregation import sequence_mean
from caprl_native.algorithm.inputs import Correction, CorrectionInputs
from caprl_native.algorithm.registries import CORRECTIONS
from caprl_native.registry import Options


class OffPolicyMask(Options):
    """Leaves out bad responses that the policy has moved away from."""

    type: Literal["off_policy_mask"] = "off_policy_mask"
    high: float = Field(
        0.1, ge=0, description="Mean log-prob, in nats per token, that a response may have lost."
    )


@CORRECTIONS.register(OffPolicyMask)
def off_policy_mask(inputs: CorrectionInputs, options: OffPolicyMask) -> Correction:
    """1 or 0 `[B, T]`, 0 outside the mask; clipped where a response's token is left out."""
    inside = inputs.mask != 0
    distance = sequence_mean(inputs.engine_logprobs - inputs.logprobs, inside)
    kept = inside & ((inputs.advantages >= 0) | (distance <= options.high))
    return Correction(kept.to(inputs.logprobs.dtype), inside & ~kept)
