"""A KL estimator of yours: `f(difference: Tensor, options: dict) -> Tensor`, both `[B, T]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.custom import CustomOptions, call, of_shape
from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class CustomKl(CustomOptions, KlOptions):
    """A KL estimator of yours, `f(difference, options)`."""

    type: Literal["custom"] = "custom"


@KL.register(CustomKl)
def custom(difference: Tensor, options: CustomKl) -> Tensor:
    """What the function returns, `[B, T]`. Raises ValueError for another shape."""
    return of_shape(call(options, difference), difference, options)
