"""Advantages of yours: `f(inputs: AdvantageInputs, options: dict) -> Tensor`, `[B]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.custom import CustomOptions, call, of_shape
from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES

if TYPE_CHECKING:
    from torch import Tensor


class CustomAdvantage(CustomOptions):
    """Advantages of yours, `f(inputs, options)`."""

    type: Literal["custom"] = "custom"


@ADVANTAGES.register(CustomAdvantage)
def custom(inputs: AdvantageInputs, options: CustomAdvantage) -> Tensor:
    """What the function returns, `[B]`. Raises ValueError for another shape, or for NaN."""
    values = of_shape(call(options, inputs), inputs.groups.rewards, options)
    if not bool(values.isfinite().all()):
        raise ValueError(f"{options.import_path} returned advantages that are not finite")
    return values
