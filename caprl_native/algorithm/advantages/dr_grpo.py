"""Dr. GRPO (Liu et al. 2025): A_i = R_i - mean, over the responses of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class DrGrpo(Options):
    """Dr GRPO: reward minus the group's mean, no division."""

    type: Literal["dr_grpo"] = "dr_grpo"


@ADVANTAGES.register(DrGrpo)
def dr_grpo(inputs: AdvantageInputs, options: DrGrpo) -> Tensor:
    """One advantage for each response, `[B]`."""
    return inputs.groups.finish(inputs.groups.centred)
