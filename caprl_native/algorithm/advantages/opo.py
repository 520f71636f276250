"""OPO (Hao et al. 2025): the baseline of least variance, rewards weighted by length.

    A_i = R_i - sum_j l_j R_j / sum_j l_j

over the responses j of the prompt, l_j tokens long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class Opo(Options):
    """OPO: reward minus the group's mean weighted by length."""

    type: Literal["opo"] = "opo"


@ADVANTAGES.register(Opo)
def opo(inputs: AdvantageInputs, options: Opo) -> Tensor:
    """One advantage for each response, `[B]`."""
    groups, lengths = inputs.groups, inputs.lengths
    baseline = groups.total(lengths * groups.rewards) / groups.total(lengths).clamp(min=1e-8)
    return groups.finish(groups.rewards - baseline)
