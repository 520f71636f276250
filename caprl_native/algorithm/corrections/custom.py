"""A correction of yours: `f(inputs: CorrectionInputs, options: dict) -> Correction | Tensor`.

It returns the factors of the token losses, `[B, T]`, or those with where they were clipped.
"""

from __future__ import annotations

from typing import Literal

from caprl_native.algorithm.custom import CustomOptions, call, of_shape
from caprl_native.algorithm.inputs import Correction, CorrectionInputs
from caprl_native.algorithm.registries import CORRECTIONS


class CustomCorrection(CustomOptions):
    """A correction of yours, `f(inputs, options)`."""

    type: Literal["custom"] = "custom"


@CORRECTIONS.register(CustomCorrection)
def custom(inputs: CorrectionInputs, options: CustomCorrection) -> Correction:
    """What the function returns, `[B, T]`. Raises ValueError for another shape."""
    found = call(options, inputs)
    if not isinstance(found, Correction):
        found = Correction(found, (inputs.mask != 0) & (found != 1))
    of_shape(found.weights, inputs.logprobs, options)
    return found
