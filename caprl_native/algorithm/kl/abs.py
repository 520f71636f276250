"""The absolute log ratio as a distance from the reference.

    |d|,  d = log p - log p_reference, nats

`abs+` has its value and the gradient of k2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class Abs(KlOptions):
    """abs: the absolute log ratio."""

    type: Literal["abs"] = "abs"


@KL.register(Abs)
def absolute(difference: Tensor, options: KlOptions) -> Tensor:
    """The estimate at each token, `[B, T]`, nats; `difference` is log p - log p_reference."""
    return difference.abs()


class AbsPlus(KlOptions):
    """abs+: the value of abs, the gradient of k2."""

    type: Literal["abs+"] = "abs+"
    straight_through: ClassVar[bool] = True


KL.register(AbsPlus)(absolute)
