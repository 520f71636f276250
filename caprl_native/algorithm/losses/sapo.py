"""SAPO (Gao et al. 2025): a smooth gate in place of clipping.

    L_t = -A_t (4 / tau) sigmoid(tau (r_t - 1)),  r_t = p(t) / p_old(t)

tau is `tau_positive` where A_t > 0, else `tau_negative`. At r_t = 1 the gradient is PPO's; it
fades on both sides, the faster the larger tau is.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options


class Sapo(Options):
    """SAPO: a sigmoid of the ratio, nothing is clipped."""

    type: Literal["sapo"] = "sapo"
    tau_positive: float = Field(
        1.0, gt=0, description="Steepness of the gate of positive advantages."
    )
    tau_negative: float = Field(1.05, gt=0, description="Steepness of the gate of all others.")


@LOSSES.register(Sapo)
def sapo(inputs: LossInputs, options: Sapo) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    log_ratio, advantages = inputs.log_ratio, inputs.advantages
    tau = log_ratio.new_full(log_ratio.shape, options.tau_negative)
    tau = tau.masked_fill(advantages > 0, options.tau_positive)
    gate = (tau * (log_ratio.exp() - 1.0)).sigmoid() * (4.0 / tau)
    return TokenTerms(loss=-advantages * gate)
