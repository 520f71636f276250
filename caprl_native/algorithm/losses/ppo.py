"""Clipped policy gradient: PPO (Schulman et al. 2017) with DAPO's two bounds (Yu et al. 2025).

    r_t = p(t) / p_old(t)
    L_t = max(-A_t r_t, -A_t clip(r_t, 1 - clip_low, 1 + clip_high))

Dual clip (Ye et al. 2020): where A_t < 0, L_t is at most dual_clip |A_t|. Two-sided clip
(INTELLECT-2): the first r_t is at most ratio_cap.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.clipping import ClipOptions, clipped_ratio
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES


class Ppo(ClipOptions):
    """PPO: the importance ratio of each token, clipped."""

    type: Literal["ppo"] = "ppo"
    ratio_cap: float = Field(
        0.0, ge=0, description="Bound on the unclipped ratio (INTELLECT-2), > 1; 0: none."
    )


@LOSSES.register(Ppo)
def ppo(inputs: LossInputs, options: Ppo) -> TokenTerms:
    """The loss of each token, `[B, T]`."""
    return clipped_ratio(inputs.log_ratio, inputs.advantages, options, options.ratio_cap)
