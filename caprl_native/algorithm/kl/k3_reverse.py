"""k3 with the roles exchanged: an estimate of KL(reference || policy) by the policy's tokens.

    exp(d) - d - 1,  d = log p - log p_reference, nats

Far above the reference it grows exponentially, which the limit of d bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import KL

if TYPE_CHECKING:
    from torch import Tensor


class K3Reverse(KlOptions):
    """k3_reverse: k3 with the roles of policy and reference exchanged."""

    type: Literal["k3_reverse"] = "k3_reverse"


@KL.register(K3Reverse)
def k3_reverse(difference: Tensor, options: K3Reverse) -> Tensor:
    """The estimate at each token, `[B, T]`, nats; `difference` is log p - log p_reference."""
    return difference.exp() - difference - 1.0
