"""GDPO (Liu et al. 2026): each reward term normalised in its group, then weighed and summed.

    Z_ik = (R_ik - mean_k) / (std_k + eps)      over the responses of the prompt, for each term k
    S_i = sum_k w_k Z_ik
    A_i = (S_i - mean S) / (std S + eps)        over the batch

so that a term with a small spread counts as much as one with a large spread. A term that a
response does not have adds nothing to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor

    from caprl_native.algorithm.groups import GroupStatistics


class Gdpo(Options):
    """GDPO: each reward term normalised in its group; their weighted sum, over the batch."""

    type: Literal["gdpo"] = "gdpo"
    std: Literal["unbiased", "population"] = Field(
        "unbiased", description="The deviation that is divided by."
    )
    eps: float = Field(1e-6, ge=0, description="Added to the deviation.")


@ADVANTAGES.register(Gdpo)
def gdpo(inputs: AdvantageInputs, options: Gdpo) -> Tensor:
    """One advantage for each response, `[B]`."""

    def normalised(rewards: GroupStatistics) -> Tensor:
        deviation = rewards.variance(options.std).sqrt()
        return rewards.finish(rewards.centred / (deviation + options.eps))

    total = inputs.groups.rewards * 0.0
    for name, rewards in inputs.terms.items():
        total = total + inputs.weights[name] * normalised(rewards)
    return normalised(inputs.groups.as_one(total))
