"""GRPO (Shao et al. 2024): A_i = (R_i - mean) / (std + eps), over the responses of a prompt.

`std = "none"` leaves the division out, `scope = "batch"` takes the deviation of all rewards of the
batch (mean within the group, as in REINFORCE++ and Lite-PPO).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class Grpo(Options):
    """GRPO: reward minus the group's mean, divided by the group's deviation."""

    type: Literal["grpo"] = "grpo"
    std: Literal["unbiased", "population", "none"] = Field(
        "unbiased", description="The deviation that is divided by; none: no division."
    )
    eps: float = Field(1e-6, ge=0, description="Added to the deviation.")
    min_std: float = Field(
        0.0, ge=0, description="The deviation counts as at least this: nearly equal rewards."
    )
    scope: Literal["group", "batch"] = Field(
        "group", description="Whose deviation: that of the group, or of all rewards of the batch."
    )


@ADVANTAGES.register(Grpo)
def grpo(inputs: AdvantageInputs, options: Grpo) -> Tensor:
    """One advantage for each response, `[B]`."""
    groups = inputs.groups
    centred = groups.centred
    if options.std != "none":
        spread = groups if options.scope == "group" else groups.as_one()
        deviation = spread.variance(options.std).sqrt().clamp(min=options.min_std)
        centred = centred / (deviation + options.eps)
    return groups.finish(centred)
