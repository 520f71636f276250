"""TaskMem's advantage: GRPO's, without pushing down what is right and only less useful.

    A_i = (R_i - mean) / (std + eps), over the responses of a prompt
    A_i = 0 where A_i < 0, R_i > 0 and c_i = m, if m >= 0

with c_i what a response has right less what it has wrong, and m the most of the group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class OptimizeThreshold(Options):
    """GRPO, but the best of a group are not pushed down while their reward is positive."""

    type: Literal["optimize_threshold"] = "optimize_threshold"
    eps: float = Field(1e-6, ge=0, description="Added to the (unbiased) deviation.")
    count: str = Field(
        "memory/count",
        min_length=1,
        description='What a response has right less what it has wrong, as a part "TERM/PART" of a '
        "reward term.",
    )


@ADVANTAGES.register(OptimizeThreshold)
def optimize_threshold(inputs: AdvantageInputs, options: OptimizeThreshold) -> Tensor:
    """One advantage for each response, `[B]`.

    Raises:
        ValueError: a response with a reward has no such part.
    """
    groups = inputs.groups
    counts = inputs.parts.get(options.count)
    if counts is None or bool((groups.known & ~counts.known).any()):
        found = ", ".join(inputs.parts) or "none"
        raise ValueError(
            f"algorithm.advantage.count: expected a part that every rewarded response has, found "
            f"{options.count!r}; parts of this batch: {found}"
        )
    values = groups.centred / (groups.variance("unbiased").sqrt() + options.eps)
    most = counts.highest
    spared = (most >= 0) & (counts.rewards == most) & (groups.rewards > 0)
    return groups.finish(values.masked_fill(spared & (values < 0), 0.0))
