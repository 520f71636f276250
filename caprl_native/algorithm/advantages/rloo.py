"""RLOO (Ahmadian et al. 2024): A_i = R_i - mean of the other n - 1 rewards of the prompt.

Equal to (R_i - mean) n / (n - 1). The released CapRL scripts use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class Rloo(Options):
    """RLOO: reward minus the mean of the group's other rewards."""

    type: Literal["rloo"] = "rloo"


@ADVANTAGES.register(Rloo)
def rloo(inputs: AdvantageInputs, options: Rloo) -> Tensor:
    """One advantage for each response, `[B]`."""
    groups = inputs.groups
    return groups.finish(groups.centred * groups.count / (groups.count - 1).clamp(min=1))
