"""The options that all KL estimators have, and the gradient of those whose name ends with +."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from caprl_native.bounds import UserPath
from caprl_native.registry import Options

if TYPE_CHECKING:
    from torch import Tensor


class KlOptions(Options):
    """The KL term against the reference policy."""

    straight_through: ClassVar[bool] = False  # the estimate has the gradient of k2

    weight: float = Field(
        0.0, ge=0, description="Weight of the KL term; 0: no reference policy is loaded."
    )
    reference: UserPath = Field(
        "", description="Directory of the reference policy; empty: policy.path."
    )
    value_limit: float = Field(
        0.0, ge=0, description="The estimate is clamped to +- this many nats; 0: it is not."
    )


def with_gradient_of_k2(value: Tensor, difference: Tensor) -> Tensor:
    """`value` with the gradient of k2, which is the difference itself, never exp of it."""
    surrogate = 0.5 * difference.square()
    return surrogate - surrogate.detach() + value.detach()
