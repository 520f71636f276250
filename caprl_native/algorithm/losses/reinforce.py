"""REINFORCE (Williams 1992): L_t = -A_t log p(t).

The old log-probs are not used; they show in the metrics.
"""

from __future__ import annotations

from typing import Literal

from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options


class Reinforce(Options):
    """REINFORCE: the policy gradient, without a ratio."""

    type: Literal["reinforce"] = "reinforce"


@LOSSES.register(Reinforce)
def reinforce(inputs: LossInputs, options: Reinforce) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    return TokenTerms(loss=-inputs.advantages * inputs.logprobs)
