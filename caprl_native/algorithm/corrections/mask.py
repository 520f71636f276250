"""Tokens, or whole responses, on which trainer and engine differ too much are left out.

    weight = 1 where low <= r <= high, else 0;  r = p_trainer / p_engine

of each token, of the response's product, or of its geometric mean. Together with `tis`, whose cap
is then no smaller than `high`, the token level is IcePop (Ling team 2025): r inside, 0 outside;
the geometric level with token weights is OpenRLHF's seq-mask-tis. Denominators do not change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.inputs import Correction, CorrectionInputs
from caprl_native.algorithm.ratios import RatioLevel, log_importance_ratio
from caprl_native.algorithm.registries import CORRECTIONS
from caprl_native.registry import Options


class Mask(Options):
    """Leaves out what trainer and engine differ on too much (IcePop together with tis)."""

    type: Literal["mask"] = "mask"
    level: RatioLevel = Field(
        "token", description="Of each token, of the product over a response, or its geometric mean."
    )
    low: float = Field(0.5, ge=0, le=1, description="A ratio below this is left out.")
    high: float = Field(2.0, ge=1, description="A ratio above this is left out.")


@CORRECTIONS.register(Mask)
def mask(inputs: CorrectionInputs, options: Mask) -> Correction:
    """1 or 0 `[B, T]`, 0 outside the mask; clipped where a response's token is left out."""
    inside = inputs.mask != 0
    ratio = log_importance_ratio(inputs, options.level).exp()
    kept = inside & (ratio >= options.low) & (ratio <= options.high)
    return Correction(kept.to(ratio.dtype), inside & ~kept)
