"""MaxRL (Tajwar et al. 2026): A_i = (R_i - mean) / mean; 0 where the group's mean is not positive.

Prompts that are rarely solved weigh more, as in maximum likelihood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class MaxRl(Options):
    """MaxRL: reward minus the group's mean, divided by that mean."""

    type: Literal["max_rl"] = "max_rl"


@ADVANTAGES.register(MaxRl)
def max_rl(inputs: AdvantageInputs, options: MaxRl) -> Tensor:
    """One advantage for each response, `[B]`."""
    groups = inputs.groups
    positive = groups.mean > 0
    scaled = groups.centred / groups.mean.masked_fill(~positive, 1.0)
    return groups.finish(scaled.masked_fill(~positive, 0.0))
