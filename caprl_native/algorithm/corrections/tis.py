"""Truncated importance sampling (Yao et al. 2025): weights min(r, cap).

    r = p_trainer / p_engine, of each token, or of the response's product (or geometric mean)

Samples come from the engine, gradients from the trainer; the weight makes up for the difference of
their probabilities, and its cap bounds the variance. It is not differentiated.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from caprl_native.algorithm.aggregation import masked
from caprl_native.algorithm.inputs import Correction, CorrectionInputs
from caprl_native.algorithm.ratios import RatioLevel, log_importance_ratio
from caprl_native.algorithm.registries import CORRECTIONS
from caprl_native.registry import Options


class Tis(Options):
    """Truncated importance sampling: the ratio of trainer to engine, up to a cap."""

    type: Literal["tis"] = "tis"
    level: RatioLevel = Field(
        "token", description="Of each token, of the product over a response, or its geometric mean."
    )
    cap: float = Field(2.0, ge=1, description="The weight is at most this.")
    low: float = Field(0.0, ge=0, le=1, description="The weight is at least this.")


@CORRECTIONS.register(Tis)
def tis(inputs: CorrectionInputs, options: Tis) -> Correction:
    """Weights `[B, T]`, 0 outside the mask; clipped where the ratio is above the cap."""
    mask = inputs.mask
    log_ratio = log_importance_ratio(inputs, options.level)
    weights = masked(masked(log_ratio.exp(), mask).clamp(options.low, options.cap), mask)
    return Correction(weights, (mask != 0) & (log_ratio > math.log(options.cap)))
