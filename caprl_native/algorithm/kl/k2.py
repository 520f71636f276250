"""The estimator k2 of KL(policy || reference) (Schulman, "Approximating KL divergence", 2020).

    k2 = d^2 / 2,  d = log p - log p_reference, nats

Biased, of low variance; its gradient is an unbiased gradient of the KL on policy. `k2+` has the
same gradient beyond the limits too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class K2(KlOptions):
    """k2: half the square of the log ratio."""

    type: Literal["k2"] = "k2"


@KL.register(K2)
def k2(difference: Tensor, options: KlOptions) -> Tensor:
    """The estimate at each token, `[B, T]`, nats; `difference` is log p - log p_reference."""
    return 0.5 * difference.square()


class K2Plus(KlOptions):
    """k2+: the value of k2, its gradient beyond the limits too."""

    type: Literal["k2+"] = "k2+"
    straight_through: ClassVar[bool] = True


KL.register(K2Plus)(k2)
