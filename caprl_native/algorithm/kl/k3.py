"""The estimator k3 of KL(policy || reference) (Schulman, "Approximating KL divergence", 2020).

    k3 = exp(-d) + d - 1,  d = log p - log p_reference, nats

Unbiased, never negative. `k3+` has its value and the gradient of k2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class K3(KlOptions):
    """k3: unbiased, never negative (GRPO)."""

    type: Literal["k3"] = "k3"


@KL.register(K3)
def k3(difference: Tensor, options: KlOptions) -> Tensor:
    """The estimate at each token, `[B, T]`, nats; `difference` is log p - log p_reference."""
    return (-difference).exp() + difference - 1.0


class K3Plus(KlOptions):
    """k3+: the value of k3, the gradient of k2."""

    type: Literal["k3+"] = "k3+"
    straight_through: ClassVar[bool] = True


KL.register(K3Plus)(k3)
