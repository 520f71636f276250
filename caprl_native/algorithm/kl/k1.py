"""The estimator k1 of KL(policy || reference) (Schulman, "Approximating KL divergence", 2020).

    k1 = d,  d = log p - log p_reference, nats

Unbiased, of high variance; its own gradient is that of the log-prob, zero in expectation on policy,
so that as a loss it does nothing but add noise. `k1+` has its value and the gradient of k2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class K1(KlOptions):
    """k1: the log ratio itself."""

    type: Literal["k1"] = "k1"


@KL.register(K1)
def k1(difference: Tensor, options: KlOptions) -> Tensor:
    """The estimate at each token, `[B, T]`, nats; `difference` is log p - log p_reference."""
    return difference


class K1Plus(KlOptions):
    """k1+: the value of k1, the gradient of k2."""

    type: Literal["k1+"] = "k1+"
    straight_through: ClassVar[bool] = True


KL.register(K1Plus)(k1)
