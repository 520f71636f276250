"""A loss of yours: `f(inputs: LossInputs, options: dict) -> TokenTerms | Tensor`.

It returns the loss of each token, `[B, T]`, with a graph, or that with where it was clipped.
`examples/custom_loss.py` is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from caprl_native.algorithm.custom import CustomOptions, call, of_shape
from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES


class CustomLoss(CustomOptions):
    """A loss of yours, `f(inputs, options)`."""

    type: Literal["custom"] = "custom"


@LOSSES.register(CustomLoss)
def custom(inputs: LossInputs, options: CustomLoss) -> TokenTerms:
    """What the function returns for each token, `[B, T]`. Raises ValueError for another shape."""
    found = call(options, inputs)
    terms = found if isinstance(found, TokenTerms) else TokenTerms(loss=found)
    return replace(terms, loss=of_shape(terms.loss, inputs.logprobs, options))
