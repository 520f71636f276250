"""A loss of one's own as a plain function: asymmetric REINFORCE (Arnal et al. 2025).

Without a change to the package; in the config of a run:

    [algorithm.loss]
    type = "custom"
    import_path = "examples/custom_loss.py:asymmetric"
    options = {negative = 0.5}   # the function's second argument

    L_t = -A_t r_t        where A_t > 0,     r_t = p(t) / p_old(t)
    L_t = -negative A_t r_t    elsewhere

so that what was good is learnt faster than what was bad is unlearnt. The function gets the
log-probs, old log-probs, log ratios, advantages and the mask of a micro-batch, `[B, T]` each, and
returns the loss of each token, `[B, T]`. Sums, denominators, corrections, the KL term and the
metrics are the trainer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from caprl_native.algorithm.inputs import LossInputs


def asymmetric(inputs: LossInputs, options: dict[str, Any]) -> Tensor:
    """The loss of each token, `[B, T]`."""
    advantages = inputs.advantages
    weighted = advantages.where(advantages > 0, advantages * options.get("negative", 0.5))
    return -weighted * inputs.log_ratio.exp()
